"""Checks what the schemas of Kubernetes cannot: that names refer to something, and the security.

    check_manifests.py FILE...
"""

import sys

import yaml


def fail(where, what):
    sys.exit(f"check_manifests.py: {where}: {what}")


def labels_match(selector, template):
    return selector.items() <= template["metadata"]["labels"].items()


def check_restricted(where, spec):
    """The Pod Security Standard "restricted", and a read-only root file system."""
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
        fail(where, "expected runAsNonRoot: true and a runAsUser other than 0")
    if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        fail(where, "expected the seccompProfile RuntimeDefault")
    for container in spec.get("initContainers", []) + spec["containers"]:
        context = container.get("securityContext")
        expected = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]}}
        if context != expected:
            fail(f"{where}, container {container['name']}",
                 f"expected the securityContext {expected}, found {context}")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            fail(f"{where}, container {container['name']}", "expected a limit of its memory")


def check_volumes(where, spec, claims, config_maps, secrets):
    for volume in spec["volumes"]:
        name = volume.get("configMap", {}).get("name")
        if name and name not in config_maps:
            fail(where, f"no manifest has the ConfigMap {name}")
        name = volume.get("secret", {}).get("secretName")
        if name and name not in secrets:
            fail(where, f"secrets.sh does not create the Secret {name}")
    known = {volume["name"] for volume in spec["volumes"]}
    known |= {claim["metadata"]["name"] for claim in claims}
    for container in spec.get("initContainers", []) + spec["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in known:
                fail(f"{where}, container {container['name']}", f"no volume {mount['name']}")


def check_ports(where, ports, template):
    containers = template["spec"]["containers"]
    named = {port["name"] for one in containers for port in one.get("ports", [])}
    for port in ports:
        if isinstance(port, str) and port not in named:
            fail(where, f"no container has the port {port}")


def main(files):
    documents = []
    for file in files:
        with open(file) as text:
            documents += [one for one in yaml.safe_load_all(text) if one]
    of_kind = {}
    for one in documents:
        of_kind.setdefault(one["kind"], {})[one["metadata"]["name"]] = one
    config_maps, secrets = of_kind.get("ConfigMap", {}), of_kind.get("Secret", {})
    templates = []
    for kind in ("StatefulSet", "Job"):
        for name, one in of_kind.get(kind, {}).items():
            where, template = f"{kind} {name}", one["spec"]["template"]
            templates.append(template)
            check_restricted(where, template["spec"])
            claims = one["spec"].get("volumeClaimTemplates", [])
            check_volumes(where, template["spec"], claims, config_maps, secrets)
    if not templates:
        fail(" ".join(files), "no StatefulSet and no Job")
    for name, one in of_kind.get("StatefulSet", {}).items():
        where, spec = f"StatefulSet {name}", one["spec"]
        if not labels_match(spec["selector"]["matchLabels"], spec["template"]):
            fail(where, "its selector does not match its template")
        if spec["serviceName"] not in of_kind.get("Service", {}):
            fail(where, f"no Service {spec['serviceName']}")
    selecting = [(f"Service {name}", one["spec"]["selector"],
                  [port["targetPort"] for port in one["spec"]["ports"]])
                 for name, one in of_kind.get("Service", {}).items()]
    for name, one in of_kind.get("NetworkPolicy", {}).items():
        ports = [port["port"] for rule in one["spec"]["ingress"] for port in rule["ports"]]
        selecting.append(
            (f"NetworkPolicy {name}", one["spec"]["podSelector"]["matchLabels"], ports))
        for rule in one["spec"]["ingress"]:
            for source in rule["from"]:
                pods = source.get("podSelector", {}).get("matchLabels", {})
                if not any(labels_match(pods, template) for template in templates):
                    fail(f"NetworkPolicy {name}", f"no pod has the labels {pods}")
    for where, selector, ports in selecting:
        chosen = [template for template in templates if labels_match(selector, template)]
        if not chosen:
            fail(where, f"no pod has the labels {selector}")
        check_ports(where, ports, chosen[0])
    print(f"{len(documents)} objects: names, ports, labels and security are right")


main(sys.argv[1:])
