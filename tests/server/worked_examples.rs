//! The worked examples of docs/waiting.md, replayed line by line on a server.

use std::fs;

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, workspace};

use crate::support::locks::{acquire, granted};
use crate::support::queue::{join_queue, queue_of, wait_queue_length};

tests! {
    the_example_of_priorities_and_shares,
    the_example_of_groups,
    the_example_of_near,
}

const LOCK: &str = "gpu_lock:0";

/// The cells of the lines of the example that contains some words.
fn example(words: &str) -> Vec<Vec<String>> {
    let path = workspace().join("docs/waiting.md");
    let text = fs::read_to_string(path).expect("the explanation of waiting");
    let mut blocks = text.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains(words));
    // The first line is that of the language.
    let lines = block.expect("the example").lines().skip(1);
    let lines = lines.filter(|line| !line.trim().is_empty());
    let cell = |cell: &str| cell.trim().to_owned();
    let cells = |line: &str| {
        line.trim().split("  ").map(cell).filter(|cell| !cell.is_empty()).collect()
    };
    lines.map(cells).collect()
}

/// A call of the example of turns, or the holder if it was granted immediately.
struct Job {
    owner: String,
    share: String,
    priority: i64,
    client: Client,
}

fn the_example_of_priorities_and_shares(flavour: &Flavour) {
    let server = flavour.start();
    let mut observer = server.client();
    let mut held: Option<Job> = None;
    let mut waiting: Vec<Job> = vec![];
    let mut grants = 0;
    let mut steps = 0;
    for line in example("call or release").split_off(1) {
        let [step, turn, queue] = line.as_slice() else {
            panic!("three cells: {line:?}")
        };
        if let Some(owner) = step.strip_suffix(" is released") {
            assert_eq!(call!(observer, "GPULOCK.RELEASE", LOCK, owner), 1, "{step}");
            grants += 1;
            let (number, next) = turn
                .strip_prefix("grant ")
                .and_then(|text| text.split_once(": "))
                .expect("a grant");
            assert_eq!(number, grants.to_string(), "{step}");
            let index = waiting.iter().position(|job| job.owner == next);
            let mut job = waiting.remove(index.expect("a waiting job"));
            assert!(job.client.read().int() > 0, "{step}");
            held = Some(job);
        } else {
            let mut words = step.split(' ');
            let owner = words.next().expect("an owner");
            let options = words.collect::<Vec<_>>();
            let value_of = |option| {
                let index = options.iter().position(|word| *word == option);
                index.map(|index| options[index + 1])
            };
            let share = value_of("SHARE").expect("a share").to_owned();
            let priority = value_of("PRIORITY").map_or(0, |value| value.parse().unwrap());
            if turn == "granted immediately" {
                let mut client = server.client();
                let call = format!("GPULOCK.ACQUIRE {LOCK} {step} EX 600");
                assert!(client.line(&call).int() > 0, "{step}");
                held = Some(Job { owner: owner.to_owned(), share, priority, client });
            } else {
                let counts = |job: &&Job| job.share == share && job.priority >= priority;
                let holds = held.iter().filter(|job| job.share == share).count();
                let own = holds + waiting.iter().filter(counts).count();
                let sum = grants + 16 * (own as i64 - priority);
                let written = format!("{grants} + 16 × ({own} - {priority}) = {sum}");
                assert_eq!(*turn, written, "{step}");
                let options = format!("{} EX 600 BLOCK 0", options.join(" "));
                let client = join_queue(&server, &mut observer, LOCK, owner, &options);
                waiting.push(Job { owner: owner.to_owned(), share, priority, client });
            }
        }
        let queue: Vec<_> =
            queue.split(' ').filter(|owner| *owner != "(empty)").collect();
        assert_eq!(queue_of(&mut observer, LOCK), queue, "{step}");
        steps += 1;
    }
    assert_eq!((steps, grants), (11, 5));
}

fn the_example_of_groups(flavour: &Flavour) {
    let server = flavour.start();
    let mut observer = server.client();
    let mut lines = example("train lacks").into_iter();
    let keys = lines.next().expect("the keys");
    let keys: Vec<&str> = keys[..6].iter().map(String::as_str).collect();
    let holders = lines.next().expect("the holders");
    for (key, holder) in keys.iter().zip(&holders[1..]) {
        assert!(acquire(&mut observer, key, holder) > 0);
    }
    let (mut train, mut eval) = join_the_queues(&server, &mut observer, &keys);
    let mut steps = 0;
    for line in lines {
        let holder = line[0].strip_suffix(" releases").expect("a release");
        let index = holders[1..].iter().position(|name| name == holder);
        let key = keys[index.expect("a holder")];
        assert_eq!(call!(observer, "GPULOCK.RELEASE", key, holder), 1, "{line:?}");
        for (key, expected) in keys.iter().zip(&line[1..]) {
            assert_eq!(state_of(&mut observer, key), *expected, "{key}: {line:?}");
        }
        steps += 1;
    }
    assert_eq!(steps, 4);
    assert!(eval.read().int() > 0);
    let grants = granted(&train.read());
    assert!(grants.iter().map(|(key, _)| key).eq(&keys[3..]), "{grants:?}");
}

/// The two waiters of the example of groups.
fn join_the_queues(
    server: &Server,
    observer: &mut Client,
    keys: &[&str],
) -> (Client, Client) {
    let mut train = server.client();
    let all = keys.join(" ");
    let options = "COUNT 3 GROUPS 1 2 3 3 EX 600 BLOCK 0";
    train.send_lines(&[&format!("GPULOCK.ACQUIREANY 6 {all} train {options}")]);
    wait_queue_length(observer, keys[0], 1);
    let mut eval = server.client();
    send!(eval, "GPULOCK.ACQUIRE", keys[0], "eval", "EX", 600, "BLOCK", 0);
    wait_queue_length(observer, keys[0], 2);
    (train, eval)
}

/// What the example shows of a lock: its owner, `reserved` or `free`.
fn state_of(observer: &mut Client, key: &str) -> String {
    let seen = call!(observer, "GPULOCK.INSPECT", key);
    let text = |name| match &seen {
        Value::Null => None,
        seen => Some(seen.field(name)).filter(|it| !it.is_null()).map(|it| it.text()),
    };
    match (text("owner"), text("reserved_for").as_deref()) {
        (Some(owner), _) => owner,
        (None, Some("train")) => "reserved".to_owned(),
        (None, Some(other)) => panic!("{key} is reserved for {other}"),
        (None, None) => "free".to_owned(),
    }
}

/// Each lock is held and left, the one first that was left longest ago.
fn the_example_of_near(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let [keys, tags, left, places] = <[Vec<String>; 4]>::try_from(example("last tag"))
        .expect("the keys, their tags, when they were left, and the preference");
    let minutes = |cell: &str| cell.strip_suffix(" min").map(|it| it.parse().unwrap());
    let mut ends: Vec<(i64, usize)> =
        (0..keys.len()).filter_map(|n| Some((minutes(&left[n + 1])?, n))).collect();
    ends.sort_by_key(|(minutes, _)| -minutes);
    assert_eq!(ends.len(), 4);
    for (_, n) in ends {
        let (key, tag) = (&keys[n], &tags[n + 1]);
        let grants = call!(client, "GPULOCK.ACQUIREANY", 1, key, "before", "NEAR", tag);
        assert_eq!(granted(&grants).len(), 1, "{key}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "before"), 1);
    }
    let near = places[0].strip_prefix("NEAR ").expect("a tag");
    let all = keys.join(" ");
    let call = format!("GPULOCK.ACQUIREANY 5 {all} me NEAR {near}");
    for place in ["1st", "2nd", "3rd", "4th", "5th"] {
        let n = places[1..].iter().position(|it| it == place).expect("a place");
        let grants = granted(&client.line(&call));
        assert_eq!(grants.len(), 1, "{place}");
        assert_eq!(grants[0].0, keys[n], "{place}");
    }
}
