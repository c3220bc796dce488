//! Random calls of the module's commands: valid by the grammar of docs/commands.md, invalid in
//! one place, or garbage.

use crate::support::rng::Pick;
use fastrand::Rng;

/// The words of a call, with the command name first.
pub(crate) type Words = Vec<Vec<u8>>;

/// The keys of the locks.
pub(crate) const KEYS: [&[u8]; 8] = [
    b"gpu:0",
    b"gpu:1",
    b"gpu:2",
    b"gpu:3",
    b"",
    b"a\r\nDEL gpu:0\r\n",
    b"\xff\0%s%n\"\\",
    &[b'k'; 300],
];

/// The types other than string; each is also the name of a key of that type.
pub(crate) const TYPES: [&str; 5] = ["list", "set", "zset", "hash", "stream"];

pub(crate) const OWNERS: [&[u8]; 6] =
    [b"me", b"you", b"locked_by_asr", b"PX", b"\xff\0%s%n\"\\\r\n", &[b'o'; 1024]];

/// The syntax of a command.
struct Form {
    name: &'static str,
    named: Named,
    owner: bool,
    /// Groups of options; a call has at most one option of each.
    options: &'static [&'static [(&'static str, Value)]],
}

/// The keys in a command.
#[derive(Clone, Copy, PartialEq)]
enum Named {
    None,
    One,
    /// A number, and that number of keys.
    Some,
}

/// The value of an option.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    None,
    Seconds,
    Milliseconds,
    Time,
    Notice,
    Count,
    Limit,
    Cursor,
    Token,
    Owner,
    Reason,
    Pattern,
    Key,
    Keep,
    Priority,
    Share,
    Tag,
}

const LEASE: &[(&str, Value)] = &[("EX", Value::Seconds), ("PX", Value::Milliseconds)];
const BLOCK: &[(&str, Value)] = &[("BLOCK", Value::Time)];
const UNIQUE: &[(&str, Value)] = &[("UNIQUE", Value::None)];
const SESSION: &[(&str, Value)] = &[("SESSION", Value::None)];
const GRACE: &[(&str, Value)] = &[("GRACE", Value::Time)];
const KEEP: &[(&str, Value)] = &[("KEEP", Value::Keep)];
const PRIORITY: &[(&str, Value)] = &[("PRIORITY", Value::Priority)];
const SHARE: &[(&str, Value)] = &[("SHARE", Value::Share)];
const NEAR: &[(&str, Value)] = &[("NEAR", Value::Tag)];
const COUNT: &[(&str, Value)] = &[("COUNT", Value::Count)];
const AFTER: &[(&str, Value)] = &[("AFTER", Value::Notice)];
const TOKEN: &[(&str, Value)] = &[("TOKEN", Value::Token)];
const REASON: &[(&str, Value)] = &[("REASON", Value::Reason)];
const OWNER: &[(&str, Value)] = &[("OWNER", Value::Owner)];
const MATCH: &[(&str, Value)] = &[("MATCH", Value::Pattern)];
const LIMIT: &[(&str, Value)] = &[("LIMIT", Value::Limit)];
const CURSOR: &[(&str, Value)] = &[("CURSOR", Value::Cursor)];
const KEY: &[(&str, Value)] = &[("KEY", Value::Key)];
const LOGGED: &[(&str, Value)] =
    &[("RESET", Value::None), ("7", Value::None), ("9007199254740991", Value::None)];

const OF_ACQUIRE: &[&[(&str, Value)]] =
    &[LEASE, BLOCK, UNIQUE, KEEP, SESSION, GRACE, PRIORITY, SHARE];

#[rustfmt::skip]
const FORMS: [Form; 11] = [
    Form { name: "GPULOCK.ACQUIRE", named: Named::One, owner: true, options: OF_ACQUIRE },
    Form { name: "GPULOCK.ACQUIREANY", named: Named::Some, owner: true, options: &[LEASE, BLOCK, UNIQUE, KEEP, SESSION, GRACE, PRIORITY, SHARE, NEAR, COUNT] },
    Form { name: "GPULOCK.RELEASE", named: Named::One, owner: true, options: &[TOKEN, REASON] },
    Form { name: "GPULOCK.EXTEND", named: Named::One, owner: true, options: &[LEASE, TOKEN] },
    Form { name: "GPULOCK.FORCERELEASE", named: Named::One, owner: false, options: &[OWNER, TOKEN, AFTER, REASON] },
    Form { name: "GPULOCK.INSPECT", named: Named::One, owner: false, options: &[] },
    Form { name: "GPULOCK.LIST", named: Named::None, owner: false, options: &[MATCH, LIMIT, CURSOR] },
    Form { name: "GPULOCK.STATS", named: Named::None, owner: false, options: &[KEY] },
    Form { name: "GPULOCK.LOG", named: Named::None, owner: false, options: &[LOGGED] },
    Form { name: "GPULOCK.RESETSTATS", named: Named::None, owner: false, options: &[] },
    Form { name: "GPULOCK.METRICS", named: Named::None, owner: false, options: &[CURSOR, COUNT] },
];

/// Indices into [`FORMS`], by frequency: mostly the commands that change something, and not
/// RESETSTATS.
const WEIGHTED: [usize; 24] =
    [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 10];

/// Words that are not a valid number in any option. Only PRIORITY takes a negative number.
const NOT_NUMBERS: [&[u8]; 12] = [
    b"",
    b"-101",
    b"+1",
    b"01",
    b"1.0",
    b"1e3",
    b"0x10",
    b" 1",
    b"1\0",
    b"9007199254740992",
    b"9223372036854775808",
    b"18446744073709551617",
];

/// Words that are not an option of any command.
const NOT_OPTIONS: [&[u8]; 7] = [b"NX", b"", b"EXX", b"\0", b"PX\r\n", b"%n", b"UNIQUE "];

/// A call in its parts.
struct Draft {
    form: &'static Form,
    keys: Vec<Vec<u8>>,
    /// The word before the keys of a command that takes several.
    numkeys: Vec<u8>,
    owner: Option<Vec<u8>>,
    /// Each option with its values.
    options: Vec<(Vec<u8>, Words)>,
}

/// A call that the grammar allows. `token` is one that a lock may have.
pub(crate) fn well_formed(rng: &mut Rng, token: i64) -> Words {
    let form = &FORMS[rng.pick(&WEIGHTED)];
    Draft::new(form, rng, token).words()
}

/// A well-formed call with one mistake, which returns an error in any state of the locks. The
/// keys in [`TYPES`] must exist.
pub(crate) fn invalid(rng: &mut Rng, token: i64) -> Words {
    let form = match rng.usize(..4) {
        0 => &FORMS[rng.usize(..FORMS.len())],
        _ => &FORMS[rng.pick(&WEIGHTED)],
    };
    loop {
        let draft = Draft::new(form, rng, token);
        let invalid = match rng.usize(..14) {
            0 => draft.with_too_few_words(rng),
            1 => draft.with_an_unknown_word(rng),
            2 => draft.with_an_option_of_another_command(rng),
            3 => draft.without_the_last_value(rng),
            4 => draft.with_an_option_twice(rng),
            5 => draft.with_two_of_a_group(rng),
            6 => draft.with_an_invalid_number(rng),
            7 => draft.with_an_invalid_owner(rng),
            8 => draft.with_too_large_a_value(rng),
            9 => draft.with_grace_without_session(),
            11 => draft.with_keep_without_unique(rng),
            12 => draft.with_invalid_groups(rng),
            10 => draft.with_keys_of_another_type(rng),
            _ => draft.with_an_invalid_lock_set(rng),
        };
        if let Some(words) = invalid {
            return words;
        }
    }
}

/// Random words after a command name.
pub(crate) fn garbage(rng: &mut Rng) -> Words {
    let mut words = vec![FORMS[rng.usize(..FORMS.len())].name.as_bytes().to_vec()];
    if rng.usize(..10) == 0 {
        words[0] = bytes(rng, 20);
    }
    for _ in 0..rng.usize(..9) {
        words.push(any_word(rng));
    }
    words
}

/// A word from anywhere in a call.
fn any_word(rng: &mut Rng) -> Vec<u8> {
    match rng.usize(..7) {
        0 => option(rng).0.as_bytes().to_vec(),
        1 => rng.usize(..300).to_string().into_bytes(),
        2 => rng.pick(&NOT_NUMBERS).to_vec(),
        3 => rng.pick(&KEYS).to_vec(),
        4 => rng.pick(&OWNERS).to_vec(),
        5 => bytes(rng, 40),
        _ if rng.usize(..100) == 0 => vec![b'x'; 1 << 20],
        _ => rng.pick(&NOT_OPTIONS).to_vec(),
    }
}

fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    (0..rng.usize(..most))
        .map(|_| u8::try_from(rng.usize(..256)).expect("a byte"))
        .collect()
}

/// An option of a random command.
fn option(rng: &mut Rng) -> (&'static str, Value) {
    let with_options: Vec<&Form> =
        FORMS.iter().filter(|form| !form.options.is_empty()).collect();
    let form = rng.pick(&with_options);
    let group = rng.pick(form.options);
    rng.pick(group)
}

impl Value {
    fn random(self, rng: &mut Rng, token: i64, numkeys: usize) -> Words {
        let one = |value: &[u8]| vec![value.to_vec()];
        let number = |number: usize| vec![number.to_string().into_bytes()];
        match self {
            Self::None => Vec::new(),
            Self::Seconds => number(1 + rng.usize(..2)),
            Self::Milliseconds => number(1 + rng.usize(..200)),
            Self::Notice => number(rng.pick(&[1, 5, 50, 60_000, 9_007_199_254_740_991])),
            Self::Time => number(rng.pick(&[0, 1, 5, 50, 9_007_199_254_740_991])),
            Self::Count => number(1 + rng.usize(..numkeys.max(1))),
            Self::Limit => number(rng.pick(&[0, 1, 100, 9_007_199_254_740_991])),
            Self::Cursor => number(0),
            Self::Token if rng.usize(..2) == 0 => number(1 + rng.usize(..1 << 40)),
            Self::Token => one(token.max(1).to_string().as_bytes()),
            Self::Owner => one(rng.pick(&OWNERS)),
            Self::Reason => vec![bytes(rng, 64)],
            Self::Pattern => {
                one(rng.pick(&[&b"*"[..], b"gpu:[0-2]", b"[^", b"\\", b"*?*?*\xff"]))
            }
            Self::Key => one(rng.pick(&KEYS)),
            Self::Keep => number(rng.pick(&[0, 1, 50, 5_000])),
            Self::Priority => one(rng.pick(&[&b"-100"[..], b"-1", b"0", b"1", b"100"])),
            Self::Share => {
                one(rng.pick(&[&b"asr"[..], b"\xff\0%s", b"PX", &[b's'; 256]]))
            }
            Self::Tag => one(rng.pick(&[&b"llama"[..], b"\xff\0%s", b"PX", &[b't'; 64]])),
        }
    }

    fn is_number(self) -> bool {
        use Value::{
            Count, Cursor, Keep, Limit, Milliseconds, Notice, Priority, Seconds, Time,
            Token,
        };
        let is_time = matches!(self, Seconds | Milliseconds | Time | Keep | Notice);
        is_time || matches!(self, Count | Cursor | Limit | Token | Priority)
    }
}

impl Draft {
    fn new(form: &'static Form, rng: &mut Rng, token: i64) -> Self {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let wanted = match form.named {
            Named::None => 0,
            Named::One => 1,
            Named::Some => 1 + rng.usize(..4),
        };
        while keys.len() < wanted {
            let key = rng.pick(&KEYS).to_vec();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let owner = form.owner.then(|| rng.pick(&OWNERS).to_vec());
        let numkeys = keys.len().to_string().into_bytes();
        let mut draft = Self { form, keys, numkeys, owner, options: Vec::new() };
        for group in form.options {
            if rng.usize(..2) == 0 {
                let (word, value) = rng.pick(group);
                let value = value.random(rng, token, wanted);
                draft.add(rng, word.as_bytes(), value);
            }
        }
        if draft.has("GRACE") && !draft.has("SESSION") {
            draft.add(rng, b"SESSION", Vec::new());
        }
        if draft.has("KEEP") && !draft.has("UNIQUE") {
            draft.add(rng, b"UNIQUE", Vec::new());
        }
        if form.options.contains(&CURSOR) && draft.has("COUNT") && !draft.has("CURSOR") {
            draft.add(rng, b"CURSOR", vec![b"0".to_vec()]);
        }
        if form.named == Named::Some && rng.usize(..2) == 0 {
            draft.add_groups(rng);
        }
        draft
    }

    /// Divides the keys into groups, and sets COUNT so that enough groups are large enough.
    fn add_groups(&mut self, rng: &mut Rng) {
        let mut sizes = Vec::new();
        let mut left = self.keys.len();
        while left > 0 {
            let size = 1 + rng.usize(..left);
            sizes.push(size);
            left -= size;
        }
        let count = rng.pick(&sizes);
        let large = sizes.iter().filter(|size| **size >= count).count();
        let wanted = 1 + rng.usize(..large);
        self.remove(&["COUNT"]);
        self.add(rng, b"COUNT", vec![count.to_string().into_bytes()]);
        let values = [wanted, sizes.len()].into_iter().chain(sizes);
        let values = values.map(|value| value.to_string().into_bytes()).collect();
        self.add(rng, b"GROUPS", values);
    }

    /// Removes the options with these names.
    fn remove(&mut self, names: &[&str]) {
        self.options.retain(|(word, _)| {
            !names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
        });
    }

    /// Inserts an option at a random position.
    fn add(&mut self, rng: &mut Rng, word: &[u8], values: Words) {
        let at = rng.usize(..self.options.len() + 1);
        let mut word = word.to_vec();
        if rng.usize(..4) == 0 {
            word.make_ascii_lowercase();
        }
        self.options.insert(at, (word, values));
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(word, _)| word.eq_ignore_ascii_case(option.as_bytes()))
    }

    /// The options of the command whose values are of a kind.
    fn options_with(&self, kind: impl Fn(Value) -> bool) -> Vec<&'static str> {
        let all = self.form.options.iter().flat_map(|group| group.iter());
        all.filter(|(_, value)| kind(*value)).map(|(word, _)| *word).collect()
    }

    /// The words before the options.
    fn fixed(&self) -> Words {
        let mut words = vec![self.form.name.as_bytes().to_vec()];
        if self.form.named == Named::Some {
            words.push(self.numkeys.clone());
        }
        words.extend(self.keys.iter().cloned());
        words.extend(self.owner.clone());
        words
    }

    fn words(&self) -> Words {
        let mut words = self.fixed();
        for (word, values) in &self.options {
            words.push(word.clone());
            words.extend(values.iter().cloned());
        }
        words
    }

    fn with_too_few_words(&self, rng: &mut Rng) -> Option<Words> {
        let mut words = self.fixed();
        let fixed = words.len() - 1;
        words.truncate(1 + rng.usize(..fixed.max(1)));
        (fixed > 0).then_some(words)
    }

    fn with_an_unknown_word(mut self, rng: &mut Rng) -> Option<Words> {
        let unknown = match rng.usize(..50) {
            0 => vec![b'x'; 1 << 20],
            _ => rng.pick(&NOT_OPTIONS).to_vec(),
        };
        let at = rng.usize(..self.options.len() + 1);
        self.options.insert(at, (unknown, Vec::new()));
        Some(self.words())
    }

    fn with_an_option_of_another_command(mut self, rng: &mut Rng) -> Option<Words> {
        let (word, value) = option(rng);
        let own = self.options_with(|_| true).contains(&word);
        // LOG takes a plain number.
        let is_word = word.starts_with(|first: char| first.is_ascii_alphabetic());
        let value = value.random(rng, 1, 1);
        self.add(rng, word.as_bytes(), value);
        (!own && is_word).then(|| self.words())
    }

    fn without_the_last_value(&self, rng: &mut Rng) -> Option<Words> {
        let mut valued = self.options_with(|value| value != Value::None);
        valued.extend((self.form.named == Named::Some).then_some("GROUPS"));
        let mut words = self.words();
        words.push(valued.get(rng.usize(..valued.len().max(1)))?.as_bytes().to_vec());
        Some(words)
    }

    fn with_an_option_twice(mut self, rng: &mut Rng) -> Option<Words> {
        let (word, values) =
            self.options.get(rng.usize(..self.options.len().max(1)))?.clone();
        self.add(rng, &word, values);
        Some(self.words())
    }

    fn with_two_of_a_group(mut self, rng: &mut Rng) -> Option<Words> {
        let group = self.form.options.iter().find(|group| group.len() > 1)?;
        for (word, value) in group.iter().take(2) {
            let value = value.random(rng, 1, 1);
            self.add(rng, word.as_bytes(), value);
        }
        Some(self.words())
    }

    fn with_an_invalid_number(mut self, rng: &mut Rng) -> Option<Words> {
        let invalid = rng.pick(&NOT_NUMBERS).to_vec();
        if self.form.named == Named::Some && rng.usize(..2) == 0 {
            self.numkeys = invalid;
            return Some(self.words());
        }
        let numbers = self.options_with(Value::is_number);
        let word = *numbers.get(rng.usize(..numbers.len().max(1)))?;
        self.remove(&[word]);
        self.add(rng, word.as_bytes(), vec![invalid]);
        Some(self.words())
    }

    fn with_an_invalid_owner(mut self, rng: &mut Rng) -> Option<Words> {
        let length = rng.pick(&[0, 0, 1025, 1025, 1025, 1 << 20]);
        let invalid = vec![b'o'; length];
        if self.form.owner {
            self.owner = Some(invalid);
        } else {
            let option = *self.options_with(|value| value == Value::Owner).first()?;
            self.remove(&[option]);
            self.add(rng, option.as_bytes(), vec![invalid]);
        }
        Some(self.words())
    }

    /// A lease, a text or a priority that is too large.
    fn with_too_large_a_value(mut self, rng: &mut Rng) -> Option<Words> {
        let too_large = [
            (Value::Seconds, b"86401".to_vec()),
            (Value::Milliseconds, b"86400001".to_vec()),
            (Value::Reason, vec![0xff; 65]),
            (Value::Keep, b"3600001".to_vec()),
            (Value::Priority, b"101".to_vec()),
            (Value::Share, vec![0xff; 257]),
            (Value::Tag, vec![0xff; 65]),
        ];
        let (kind, value) = rng.pick(&too_large);
        let option = *self.options_with(|has| has == kind).first()?;
        self.remove(&["EX", "PX", option]);
        self.add(rng, option.as_bytes(), vec![value]);
        Some(self.words())
    }

    fn with_grace_without_session(mut self) -> Option<Words> {
        let with_grace = self.form.options.contains(&GRACE);
        self.remove(&["GRACE", "SESSION"]);
        self.options.push((b"GRACE".to_vec(), vec![b"5".to_vec()]));
        with_grace.then(|| self.words())
    }

    fn with_keep_without_unique(mut self, rng: &mut Rng) -> Option<Words> {
        let with_keep = self.form.options.contains(&KEEP);
        self.remove(&["KEEP", "UNIQUE"]);
        self.add(rng, b"KEEP", vec![b"5".to_vec()]);
        with_keep.then(|| self.words())
    }

    /// Groups that do not fit the keys or COUNT, or without COUNT.
    fn with_invalid_groups(mut self, rng: &mut Rng) -> Option<Words> {
        if self.form.named != Named::Some {
            return None;
        }
        let keys = self.keys.len();
        self.remove(&["COUNT", "GROUPS"]);
        let (count, groups) = match rng.usize(..7) {
            0 => (None, vec![1, 1, keys]),
            1 => (Some(1), vec![1, 1, keys + 1]),
            2 => (Some(1), vec![1, 2, keys, 1]),
            3 => (Some(1), vec![2, 1, keys]),
            4 => (Some(1), vec![0, 1, keys]),
            5 => (Some(1), vec![1, 2, keys, 0]),
            // No group is large enough.
            _ => {
                self.keys.push(b"another".to_vec());
                self.numkeys = self.keys.len().to_string().into_bytes();
                (Some(keys + 1), vec![1, 2, keys, 1])
            }
        };
        let words = |numbers: Vec<usize>| {
            numbers.into_iter().map(|number| number.to_string().into_bytes()).collect()
        };
        if let Some(count) = count {
            self.add(rng, b"COUNT", words(vec![count]));
        }
        self.add(rng, b"GROUPS", words(groups));
        Some(self.words())
    }

    /// All keys are of another type: ACQUIREANY looks at them only until it is decided.
    fn with_keys_of_another_type(mut self, rng: &mut Rng) -> Option<Words> {
        let first = rng.usize(..TYPES.len());
        let types = TYPES.iter().cycle().skip(first);
        for (key, name) in self.keys.iter_mut().zip(types) {
            *key = name.as_bytes().to_vec();
        }
        (!self.keys.is_empty()).then(|| self.words())
    }

    fn with_an_invalid_lock_set(mut self, rng: &mut Rng) -> Option<Words> {
        if self.form.named != Named::Some {
            return None;
        }
        match rng.usize(..5) {
            0 => self.numkeys = b"0".to_vec(),
            1 => self.numkeys = b"1025".to_vec(),
            2 => self.numkeys = b"1024".to_vec(),
            3 => {
                self.keys.push(self.keys[0].clone());
                self.numkeys = self.keys.len().to_string().into_bytes();
            }
            _ => {
                let too_many = (self.keys.len() + 1).to_string().into_bytes();
                self.remove(&["COUNT"]);
                self.add(rng, b"COUNT", vec![too_many]);
            }
        }
        Some(self.words())
    }
}
