#!/usr/bin/env python3
"""Runs all queries of a Grafana dashboard on a Prometheus server, as Grafana does.

    dashboard.py DASHBOARD.json http://127.0.0.1:9090 SECONDS

Waits for up to SECONDS until each query returns at least one number, and exits with 1 if one does
not.
"""

import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# Grafana's variables: all servers, and four scrape intervals of prometheus.yml.
VARIABLES = {"$instance": ".*", "$__rate_interval": "20s"}


def queries(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


def has_data(prometheus, query):
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            series = json.load(response)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{query}: {error.read().decode()}")
    except OSError:
        return False
    return any(not math.isnan(float(one["value"][1])) for one in series)


def main():
    path, prometheus, seconds = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        open_queries = list(queries(json.load(file)))
    number = len(open_queries)
    end = time.monotonic() + float(seconds)
    while True:
        open_queries = [entry for entry in open_queries if not has_data(prometheus, entry[1])]
        if not open_queries:
            break
        if time.monotonic() > end:
            for title, query in open_queries:
                print(f"no data: {title}: {query}")
            sys.exit(1)
        time.sleep(0.5)
    if number == 0:
        sys.exit(f"{path} has no queries")
    print(f"all {number} queries of the dashboard return data")


main()
