//! The storage of the locks: slots in pages. Growing moves nothing, whereas a `Vec` of a million
//! locks would be copied as a whole while every client waits. A page that becomes empty is freed.

/// The number of slots in a page: small enough to be allocated quickly, large enough to keep the
/// number of pages low.
const PAGE: usize = 256;

/// The location of a value. It is reused after the value was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u32);

impl Id {
    /// The smallest id.
    pub(crate) const FIRST: Self = Self(0);

    /// The largest id.
    pub(crate) const LAST: Self = Self(u32::MAX);

    fn new(page: usize, slot: usize) -> Option<Self> {
        let index = page.checked_mul(PAGE)?.checked_add(slot)?;
        u32::try_from(index).ok().map(Self)
    }

    fn page(self) -> usize {
        self.index() / PAGE
    }

    fn slot(self) -> usize {
        self.index() % PAGE
    }

    /// The page that a slot index belongs to.
    pub(crate) fn page_of(index: usize) -> usize {
        index / PAGE
    }

    /// The index of the first slot of a page.
    pub(crate) fn first_of(page: usize) -> usize {
        page.saturating_mul(PAGE)
    }

    /// Its index in the order of slots.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A place for a value.
#[derive(Clone, Debug)]
enum Slot<T> {
    Used(T),
    /// The next free slot of the page.
    Free(Option<u8>),
}

impl<T> Slot<T> {
    fn value(&self) -> Option<&T> {
        match self {
            Self::Used(value) => Some(value),
            Self::Free(_) => None,
        }
    }
}

type Slots<T> = Box<[Slot<T>; PAGE]>;

/// The slots of a new page, each free and followed by the next.
fn new_slots<T>() -> Option<Slots<T>> {
    let slots: Box<[Slot<T>]> =
        (0..=u8::MAX).map(|slot| Slot::Free(slot.checked_add(1))).collect();
    slots.try_into().ok()
}

/// What is free in a page.
#[derive(Clone, Debug, Default)]
struct Free {
    /// The first free slot: the one that was freed last.
    first: Option<u8>,
    /// The number of used slots.
    used: u16,
}

/// A store of values, each found by its [`Id`] in constant time.
#[derive(Clone, Debug)]
pub struct Arena<T> {
    /// `None` for a page without values. Only what finding a value reads, so that with a million
    /// values it stays in the processor's cache.
    pages: Vec<Option<Slots<T>>>,
    /// What is free in each page.
    free: Vec<Free>,
    /// The pages that have a free slot or are not allocated, each once.
    open: Vec<usize>,
    /// One page that is kept although it is empty, so that acquiring and releasing a single lock
    /// repeatedly does not allocate a page each time.
    spare: Option<usize>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), open: Vec::new(), spare: None }
    }
}

impl<T> Arena<T> {
    /// Adds a value. None when the arena already has 2^32 values.
    pub fn insert(&mut self, value: T) -> Option<Id> {
        let number = match self.open.last() {
            Some(number) => *number,
            None => self.add_page()?,
        };
        let (page, free) = (self.pages.get_mut(number)?, self.free.get_mut(number)?);
        let page = match page {
            Some(page) => page,
            None => {
                *free = Free { first: Some(0), used: 0 };
                page.insert(new_slots()?)
            }
        };
        let number_in_page = free.first?;
        let slot = page.get_mut(usize::from(number_in_page))?;
        let Slot::Free(next) = *slot else { return None };
        *slot = Slot::Used(value);
        if free.used == 0 {
            self.spare.take_if(|spare| *spare == number);
        }
        free.used = free.used.saturating_add(1);
        free.first = next;
        if next.is_none() {
            self.open.pop();
        }
        Id::new(number, usize::from(number_in_page))
    }

    #[cold]
    fn add_page(&mut self) -> Option<usize> {
        let number = self.pages.len();
        Id::new(number, PAGE.checked_sub(1)?)?;
        self.pages.push(None);
        self.free.push(Free::default());
        self.open.push(number);
        Some(number)
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let number = id.page();
        let slot = self.pages.get_mut(number)?.as_mut()?.get_mut(id.slot())?;
        let free = self.free.get_mut(number)?;
        let number_in_page = u8::try_from(id.slot()).ok()?;
        if matches!(slot, Slot::Free(_)) {
            return None;
        }
        let Slot::Used(value) = std::mem::replace(slot, Slot::Free(free.first)) else {
            return None;
        };
        if free.first.replace(number_in_page).is_none() {
            self.open.push(number);
        }
        free.used = free.used.saturating_sub(1);
        if free.used == 0
            && let Some(other) = self.spare.replace(number)
            && let Some(empty) = self.pages.get_mut(other)
        {
            *empty = None;
        }
        Some(value)
    }

    /// A value.
    pub fn get(&self, id: Id) -> Option<&T> {
        self.pages.get(id.page())?.as_ref()?.get(id.slot())?.value()
    }

    /// A value, to change it.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.pages.get_mut(id.page())?.as_mut()?.get_mut(id.slot())? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The values of a page, for visiting all values in portions.
    pub fn page(&self, number: usize) -> impl Iterator<Item = (Id, &T)> {
        let page = self.pages.get(number).and_then(Option::as_ref);
        page.into_iter().flat_map(move |page| {
            page.iter().enumerate().filter_map(move |(slot, value)| {
                Some((Id::new(number, slot)?, value.value()?))
            })
        })
    }

    /// The ids of the next `count` values, up to the end of the page that is filled next.
    pub fn next_ids(&self, count: usize) -> impl Iterator<Item = Id> {
        let number = self.open.last().copied().unwrap_or(self.pages.len());
        let page = self.pages.get(number).and_then(Option::as_ref);
        let first = match page {
            Some(_) => self.free.get(number).and_then(|free| free.first),
            None => Some(0),
        };
        let next = move |slot: &u8| match page {
            Some(page) => match page.get(usize::from(*slot))? {
                Slot::Free(next) => *next,
                Slot::Used(_) => None,
            },
            None => slot.checked_add(1),
        };
        let slots = std::iter::successors(first, next).take(count);
        slots.filter_map(move |slot| Id::new(number, usize::from(slot)))
    }

    /// The number of pages, including empty ones.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_returns_its_value_until_it_is_removed() {
        let mut arena = Arena::default();
        let ids: Vec<Id> = (0..1000).map(|n| arena.insert(n).unwrap()).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(arena.get(*id), Some(&n));
        }
        assert_eq!(arena.remove(ids[500]), Some(500));
        assert_eq!(arena.get(ids[500]), None);
        assert_eq!(arena.remove(ids[500]), None);
        assert_eq!(arena.insert(7777), Some(ids[500]));
        let count: usize = (0..arena.pages()).map(|page| arena.page(page).count()).sum();
        assert_eq!(count, 1000);
    }

    #[test]
    fn the_next_ids_are_those_of_the_next_values() {
        let mut arena = Arena::default();
        assert_eq!(arena.next_ids(3).collect::<Vec<_>>(), [0, 1, 2].map(Id));
        let ids: Vec<Id> = (0..PAGE + 2).map(|n| arena.insert(n).unwrap()).collect();
        assert_eq!(arena.next_ids(2).collect::<Vec<_>>(), [258, 259].map(Id));
        for at in [7, 3, 200] {
            arena.remove(ids[at]);
        }
        let next: Vec<Id> = arena.next_ids(PAGE).collect();
        assert_eq!(next, [200, 3, 7].map(Id), "up to the end of the page");
        for id in next {
            assert_eq!(arena.insert(0), Some(id));
        }
        let next: Vec<Id> = arena.next_ids(PAGE).collect();
        assert_eq!(next.len(), PAGE - 2);
        for id in next {
            assert_eq!(arena.insert(0), Some(id));
        }
        assert_eq!(arena.next_ids(1).collect::<Vec<_>>(), [512].map(Id), "a new page");
    }

    #[test]
    fn a_lock_takes_three_cache_lines() {
        assert_eq!(size_of::<Slot<crate::state::lock::Lock>>(), 3 * 64);
    }

    #[test]
    fn empty_pages_are_freed_and_reused() {
        let mut arena = Arena::default();
        for _ in 0..3 {
            let ids: Vec<Id> = (0..10_000).map(|n| arena.insert(n).unwrap()).collect();
            assert_eq!(arena.pages(), 10_000usize.div_ceil(PAGE));
            for id in ids {
                arena.remove(id);
            }
            assert!(arena.pages.iter().flatten().count() <= 1);
        }
    }
}
