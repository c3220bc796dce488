//! Calls of the module's commands, thrown with dice: as the contract's grammar has them,
//! spoiled in one place so that they must be refused, or garbage. What a server makes of them
//! is not known here.

use super::dice::Dice;

/// A call, the command's name first.
pub(crate) type Words = Vec<Vec<u8>>;

/// Keys under which locks may be.
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

/// A key of each type that is no string, by its type's name.
pub(crate) const KINDS: [&str; 5] = ["list", "set", "zset", "hash", "stream"];

pub(crate) const OWNERS: [&[u8]; 6] =
    [b"me", b"you", b"locked_by_asr", b"PX", b"\xff\0%s%n\"\\\r\n", &[b'o'; 1024]];

/// The form of a command.
struct Form {
    name: &'static str,
    named: Named,
    owner: bool,
    /// Of each group one option at most.
    options: &'static [&'static [(&'static str, Value)]],
}

/// The keys that a command names.
#[derive(Clone, Copy, PartialEq)]
enum Named {
    None,
    One,
    /// As many as their number before them says.
    Some,
}

/// What follows the word of an option.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    None,
    Seconds,
    Milliseconds,
    Time,
    Count,
    Limit,
    Token,
    Owner,
    Reason,
    Pattern,
    Key,
}

const LEASE: &[(&str, Value)] = &[("EX", Value::Seconds), ("PX", Value::Milliseconds)];
const BLOCK: &[(&str, Value)] = &[("BLOCK", Value::Time)];
const UNIQUE: &[(&str, Value)] = &[("UNIQUE", Value::None)];
const SESSION: &[(&str, Value)] = &[("SESSION", Value::None)];
const GRACE: &[(&str, Value)] = &[("GRACE", Value::Time)];
const COUNT: &[(&str, Value)] = &[("COUNT", Value::Count)];
const TOKEN: &[(&str, Value)] = &[("TOKEN", Value::Token)];
const REASON: &[(&str, Value)] = &[("REASON", Value::Reason)];
const OWNER: &[(&str, Value)] = &[("OWNER", Value::Owner)];
const MATCH: &[(&str, Value)] = &[("MATCH", Value::Pattern)];
const LIMIT: &[(&str, Value)] = &[("LIMIT", Value::Limit)];
const KEY: &[(&str, Value)] = &[("KEY", Value::Key)];
const LOGGED: &[(&str, Value)] =
    &[("RESET", Value::None), ("7", Value::None), ("9007199254740991", Value::None)];

const OF_ACQUIRE: &[&[(&str, Value)]] = &[LEASE, BLOCK, UNIQUE, SESSION, GRACE];

#[rustfmt::skip]
const FORMS: [Form; 11] = [
    Form { name: "GPULOCK.ACQUIRE", named: Named::One, owner: true, options: OF_ACQUIRE },
    Form { name: "GPULOCK.ACQUIREANY", named: Named::Some, owner: true, options: &[LEASE, BLOCK, UNIQUE, SESSION, GRACE, COUNT] },
    Form { name: "GPULOCK.RELEASE", named: Named::One, owner: true, options: &[TOKEN, REASON] },
    Form { name: "GPULOCK.EXTEND", named: Named::One, owner: true, options: &[LEASE, TOKEN] },
    Form { name: "GPULOCK.FORCERELEASE", named: Named::One, owner: false, options: &[OWNER, TOKEN, REASON] },
    Form { name: "GPULOCK.INSPECT", named: Named::One, owner: false, options: &[] },
    Form { name: "GPULOCK.LIST", named: Named::None, owner: false, options: &[MATCH, LIMIT] },
    Form { name: "GPULOCK.STATS", named: Named::None, owner: false, options: &[KEY] },
    Form { name: "GPULOCK.LOG", named: Named::None, owner: false, options: &[LOGGED] },
    Form { name: "GPULOCK.RESETSTATS", named: Named::None, owner: false, options: &[] },
    Form { name: "GPULOCK.METRICS", named: Named::None, owner: false, options: &[] },
];

/// The forms as often as they are called: mostly those that change something, and not the
/// one that makes counters start anew.
const OFTEN: [usize; 24] =
    [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 10];

/// What is no number anywhere in the contract.
const NO_NUMBERS: [&[u8]; 12] = [
    b"",
    b"-1",
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

/// Words that are no option of any command.
const STRAYS: [&[u8]; 7] = [b"NX", b"", b"EXX", b"\0", b"PX\r\n", b"%n", b"UNIQUE "];

/// A call whose parts can still be told apart.
struct Draft {
    form: &'static Form,
    keys: Vec<Vec<u8>>,
    /// Said before the keys, where there can be several.
    numkeys: Vec<u8>,
    owner: Option<Vec<u8>>,
    options: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A call that the grammar allows. `token` is one that some lock may have.
pub(crate) fn well_formed(dice: &mut Dice, token: i64) -> Words {
    let form = &FORMS[dice.pick(&OFTEN)];
    Draft::new(form, dice, token).words()
}

/// A call that must be answered with an error, whatever the locks are like: a well-formed one
/// with one thing wrong. The keys named in [`KINDS`] must be there, of their type.
pub(crate) fn spoiled(dice: &mut Dice, token: i64) -> Words {
    let form = match dice.below(4) {
        0 => &FORMS[dice.below(FORMS.len())],
        _ => &FORMS[dice.pick(&OFTEN)],
    };
    loop {
        let draft = Draft::new(form, dice, token);
        let spoiled = match dice.below(12) {
            0 => draft.with_too_few_words(dice),
            1 => draft.with_a_stray_word(dice),
            2 => draft.with_an_option_of_others(dice),
            3 => draft.without_the_last_value(dice),
            4 => draft.with_an_option_twice(dice),
            5 => draft.with_two_of_a_group(dice),
            6 => draft.with_no_number(dice),
            7 => draft.with_no_owner(dice),
            8 => draft.with_too_much(dice),
            9 => draft.with_grace_alone(),
            10 => draft.with_another_type(dice),
            _ => draft.with_a_wrong_set(dice),
        };
        if let Some(words) = spoiled {
            return words;
        }
    }
}

/// Words that may or may not make a call.
pub(crate) fn garbage(dice: &mut Dice) -> Words {
    let mut words = vec![FORMS[dice.below(FORMS.len())].name.as_bytes().to_vec()];
    if dice.below(10) == 0 {
        words[0] = bytes(dice, 20);
    }
    for _ in 0..dice.below(9) {
        words.push(any_word(dice));
    }
    words
}

/// A word as it may stand anywhere in a call.
fn any_word(dice: &mut Dice) -> Vec<u8> {
    match dice.below(7) {
        0 => option(dice).0.as_bytes().to_vec(),
        1 => dice.below(300).to_string().into_bytes(),
        2 => dice.pick(&NO_NUMBERS).to_vec(),
        3 => dice.pick(&KEYS).to_vec(),
        4 => dice.pick(&OWNERS).to_vec(),
        5 => bytes(dice, 40),
        _ if dice.below(100) == 0 => vec![b'x'; 1 << 20],
        _ => dice.pick(&STRAYS).to_vec(),
    }
}

fn bytes(dice: &mut Dice, most: usize) -> Vec<u8> {
    (0..dice.below(most))
        .map(|_| u8::try_from(dice.below(256)).expect("a byte"))
        .collect()
}

/// An option of whichever command.
fn option(dice: &mut Dice) -> (&'static str, Value) {
    let with_options: Vec<&Form> =
        FORMS.iter().filter(|form| !form.options.is_empty()).collect();
    let form = dice.pick(&with_options);
    let group = dice.pick(form.options);
    dice.pick(group)
}

impl Value {
    fn throw(self, dice: &mut Dice, token: i64, numkeys: usize) -> Option<Vec<u8>> {
        let number = |number: usize| Some(number.to_string().into_bytes());
        match self {
            Self::None => None,
            Self::Seconds => number(1 + dice.below(2)),
            Self::Milliseconds => number(1 + dice.below(200)),
            Self::Time => number(dice.pick(&[0, 1, 5, 50, 9_007_199_254_740_991])),
            Self::Count => number(1 + dice.below(numkeys.max(1))),
            Self::Limit => number(dice.pick(&[0, 1, 100, 9_007_199_254_740_991])),
            Self::Token if dice.below(2) == 0 => number(1 + dice.below(1 << 40)),
            Self::Token => Some(token.max(1).to_string().into_bytes()),
            Self::Owner => Some(dice.pick(&OWNERS).to_vec()),
            Self::Reason => Some(bytes(dice, 64)),
            Self::Pattern => Some(
                dice.pick(&[&b"*"[..], b"gpu:[0-2]", b"[^", b"\\", b"*?*?*\xff"])
                    .to_vec(),
            ),
            Self::Key => Some(dice.pick(&KEYS).to_vec()),
        }
    }

    fn is_number(self) -> bool {
        use Value::{Count, Limit, Milliseconds, Seconds, Time, Token};
        matches!(self, Seconds | Milliseconds | Time | Count | Limit | Token)
    }
}

impl Draft {
    fn new(form: &'static Form, dice: &mut Dice, token: i64) -> Self {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let wanted = match form.named {
            Named::None => 0,
            Named::One => 1,
            Named::Some => 1 + dice.below(4),
        };
        while keys.len() < wanted {
            let key = dice.pick(&KEYS).to_vec();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let owner = form.owner.then(|| dice.pick(&OWNERS).to_vec());
        let numkeys = keys.len().to_string().into_bytes();
        let mut draft = Self { form, keys, numkeys, owner, options: Vec::new() };
        for group in form.options {
            if dice.below(2) == 0 {
                let (word, value) = dice.pick(group);
                let value = value.throw(dice, token, wanted);
                draft.add(dice, word.as_bytes(), value);
            }
        }
        if draft.has("GRACE") && !draft.has("SESSION") {
            draft.add(dice, b"SESSION", None);
        }
        draft
    }

    /// Puts an option among the others, wherever.
    fn add(&mut self, dice: &mut Dice, word: &[u8], value: Option<Vec<u8>>) {
        let at = dice.below(self.options.len() + 1);
        let mut word = word.to_vec();
        if dice.below(4) == 0 {
            word.make_ascii_lowercase();
        }
        self.options.insert(at, (word, value));
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(word, _)| word.eq_ignore_ascii_case(option.as_bytes()))
    }

    /// The options of its form whose values are of some kind.
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
        for (word, value) in &self.options {
            words.push(word.clone());
            words.extend(value.clone());
        }
        words
    }

    fn with_too_few_words(&self, dice: &mut Dice) -> Option<Words> {
        let mut words = self.fixed();
        let fixed = words.len() - 1;
        words.truncate(1 + dice.below(fixed.max(1)));
        (fixed > 0).then_some(words)
    }

    fn with_a_stray_word(mut self, dice: &mut Dice) -> Option<Words> {
        let stray = match dice.below(50) {
            0 => vec![b'x'; 1 << 20],
            _ => dice.pick(&STRAYS).to_vec(),
        };
        let at = dice.below(self.options.len() + 1);
        self.options.insert(at, (stray, None));
        Some(self.words())
    }

    fn with_an_option_of_others(mut self, dice: &mut Dice) -> Option<Words> {
        let (word, value) = option(dice);
        let own = self.options_with(|_| true).contains(&word);
        // A bare number is LOG's own.
        let is_word = word.starts_with(|first: char| first.is_ascii_alphabetic());
        let value = value.throw(dice, 1, 1);
        self.add(dice, word.as_bytes(), value);
        (!own && is_word).then(|| self.words())
    }

    fn without_the_last_value(&self, dice: &mut Dice) -> Option<Words> {
        let valued = self.options_with(|value| value != Value::None);
        let mut words = self.words();
        words.push(valued.get(dice.below(valued.len().max(1)))?.as_bytes().to_vec());
        Some(words)
    }

    fn with_an_option_twice(mut self, dice: &mut Dice) -> Option<Words> {
        let (word, value) =
            self.options.get(dice.below(self.options.len().max(1)))?.clone();
        self.add(dice, &word, value);
        Some(self.words())
    }

    fn with_two_of_a_group(mut self, dice: &mut Dice) -> Option<Words> {
        let group = self.form.options.iter().find(|group| group.len() > 1)?;
        for (word, value) in group.iter().take(2) {
            let value = value.throw(dice, 1, 1);
            self.add(dice, word.as_bytes(), value);
        }
        Some(self.words())
    }

    fn with_no_number(mut self, dice: &mut Dice) -> Option<Words> {
        let wrong = dice.pick(&NO_NUMBERS).to_vec();
        if self.form.named == Named::Some && dice.below(2) == 0 {
            self.numkeys = wrong;
            return Some(self.words());
        }
        let numbers = self.options_with(Value::is_number);
        let word = *numbers.get(dice.below(numbers.len().max(1)))?;
        self.options.retain(|(has, _)| !has.eq_ignore_ascii_case(word.as_bytes()));
        self.add(dice, word.as_bytes(), Some(wrong));
        Some(self.words())
    }

    fn with_no_owner(mut self, dice: &mut Dice) -> Option<Words> {
        let long = dice.pick(&[0, 0, 1025, 1025, 1025, 1 << 20]);
        let wrong = vec![b'o'; long];
        if self.form.owner {
            self.owner = Some(wrong);
        } else {
            let option = *self.options_with(|value| value == Value::Owner).first()?;
            self.options.retain(|(has, _)| !has.eq_ignore_ascii_case(option.as_bytes()));
            self.add(dice, option.as_bytes(), Some(wrong));
        }
        Some(self.words())
    }

    /// A lease that is too long, or a reason.
    fn with_too_much(mut self, dice: &mut Dice) -> Option<Words> {
        let much = [
            (Value::Seconds, b"86401".to_vec()),
            (Value::Milliseconds, b"86400001".to_vec()),
            (Value::Reason, vec![0xff; 65]),
        ];
        let (kind, value) = dice.pick(&much);
        let option = *self.options_with(|has| has == kind).first()?;
        self.options.retain(|(has, _)| {
            !["EX", "PX", "REASON"]
                .iter()
                .any(|word| has.eq_ignore_ascii_case(word.as_bytes()))
        });
        self.add(dice, option.as_bytes(), Some(value));
        Some(self.words())
    }

    fn with_grace_alone(mut self) -> Option<Words> {
        let with_grace = self.form.options.contains(&GRACE);
        self.options.retain(|(word, _)| {
            !["GRACE", "SESSION"]
                .iter()
                .any(|has| word.eq_ignore_ascii_case(has.as_bytes()))
        });
        self.options.push((b"GRACE".to_vec(), Some(b"5".to_vec())));
        with_grace.then(|| self.words())
    }

    fn with_another_type(mut self, dice: &mut Dice) -> Option<Words> {
        let at = dice.below(self.keys.len().max(1));
        *self.keys.get_mut(at)? = dice.pick(&KINDS).as_bytes().to_vec();
        Some(self.words())
    }

    fn with_a_wrong_set(mut self, dice: &mut Dice) -> Option<Words> {
        if self.form.named != Named::Some {
            return None;
        }
        match dice.below(5) {
            0 => self.numkeys = b"0".to_vec(),
            1 => self.numkeys = b"1025".to_vec(),
            2 => self.numkeys = b"1024".to_vec(),
            3 => {
                self.keys.push(self.keys[0].clone());
                self.numkeys = self.keys.len().to_string().into_bytes();
            }
            _ => {
                let too_many = (self.keys.len() + 1).to_string().into_bytes();
                self.options.retain(|(word, _)| !word.eq_ignore_ascii_case(b"COUNT"));
                self.add(dice, b"COUNT", Some(too_many));
            }
        }
        Some(self.words())
    }
}
