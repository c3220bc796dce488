//! A client of a cluster that contends for locks: it waits for one, or for several at once,
//! holds them, and ends its hold in one way or another, all at random and before a witness.

use gpulock_testkit::{Cluster, Value};

use super::dice::Dice;
use super::roamer::Roamer;
use super::witness::Witness;

pub(crate) struct Contender<'a> {
    name: &'static str,
    /// How often it held something: each time by a name of its own, for a lease that is
    /// about to end would be renewed.
    times: usize,
    /// The locks of which it wants one or another set.
    sets: &'a [&'a [&'a str]],
    witness: &'a Witness,
    roamer: Roamer,
    dice: Dice,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(
        name: &'static str,
        cluster: &Cluster,
        sets: &'a [&'a [&'a str]],
        witness: &'a Witness,
    ) -> Self {
        let (roamer, dice) = (Roamer::new(cluster), Dice::new());
        Self { name, times: 0, sets, witness, roamer, dice }
    }

    /// Waits for a set of locks, holds them and ends its hold.
    pub(crate) fn have_some(&mut self) {
        self.times += 1;
        let owner = format!("{}{}", self.name, self.times);
        let set = self.dice.pick(self.sets);
        let ask = self.request(set, &owner);
        for (key, token) in granted(set, &self.roamer.line(&format!("{ask} BLOCK 0"))) {
            self.witness.granted(&key, &owner, token);
        }
        for (key, token) in granted(set, &self.roamer.line(&ask)) {
            self.witness.renewed(&key, &owner, token);
        }
        for key in set {
            self.witness.gives_up(key, &owner);
        }
        self.end(set, &owner);
    }

    fn request(&mut self, set: &[&str], owner: &str) -> String {
        let options = format!("PX 600000 UNIQUE {}", self.dice.pick(&["", "SESSION"]));
        match set {
            [key] => format!("GPULOCK.ACQUIRE {key} {owner} {options}"),
            keys => {
                let (count, keys) = (keys.len(), keys.join(" "));
                let any = format!("GPULOCK.ACQUIREANY {count} {keys} {owner}");
                format!("{any} COUNT {count} {options}")
            }
        }
    }

    fn end(&mut self, set: &[&str], owner: &str) {
        let way = self.dice.below(4);
        if way == 0 {
            // What this cannot end, because it was tied elsewhere or not at all, is
            // released below.
            self.roamer.hang_up();
        }
        for key in set {
            let release = format!("GPULOCK.RELEASE {key} {owner}");
            let soon = format!("GPULOCK.EXTEND {key} {owner} PX 2");
            match way {
                0 => {
                    let released = self.roamer.line(&release);
                    assert!(matches!(released, Value::Int(0 | 1)), "{key}: {released:?}");
                }
                1 => assert!(self.roamer.line(&soon).int() > 0, "{key}"),
                _ => assert_eq!(self.roamer.line(&release), 1, "{key}"),
            }
        }
    }
}

/// The locks that were granted, and their tokens.
#[track_caller]
fn granted(set: &[&str], answer: &Value) -> Vec<(String, i64)> {
    let pair = |pair: &Value| (pair.list()[0].text(), pair.list()[1].int());
    match set {
        [key] => vec![((*key).to_owned(), answer.int())],
        _ => answer.list().iter().map(pair).collect(),
    }
}
