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

#[derive(Clone, Debug)]
struct Page<T> {
    slots: Box<[Option<T>]>,
    /// The free slots.
    free: Vec<u8>,
}

impl<T> Page<T> {
    fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(|| None).take(PAGE).collect(),
            free: (0..=u8::MAX).rev().collect(),
        }
    }
}

/// A store of values, each found by its [`Id`] in constant time.
#[derive(Clone, Debug)]
pub struct Arena<T> {
    /// `None` for a page without values.
    pages: Vec<Option<Page<T>>>,
    /// The pages that have a free slot or are not allocated, each once.
    open: Vec<usize>,
    /// One page that is kept although it is empty, so that acquiring and releasing a single lock
    /// repeatedly does not allocate a page each time.
    spare: Option<usize>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), open: Vec::new(), spare: None }
    }
}

impl<T> Arena<T> {
    /// Adds a value. None when the arena already has 2^32 values.
    pub fn insert(&mut self, value: T) -> Option<Id> {
        let number = match self.open.last() {
            Some(number) => *number,
            None => {
                self.pages.push(None);
                let number = self.pages.len().checked_sub(1)?;
                self.open.push(number);
                number
            }
        };
        let page = self.pages.get_mut(number)?.get_or_insert_with(Page::new);
        let slot = usize::from(page.free.pop()?);
        self.spare.take_if(|spare| *spare == number);
        if page.free.is_empty() {
            self.open.pop();
        }
        *page.slots.get_mut(slot)? = Some(value);
        Id::new(number, slot)
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let page = self.pages.get_mut(id.page())?.as_mut()?;
        let value = page.slots.get_mut(id.slot())?.take()?;
        if page.free.is_empty() {
            self.open.push(id.page());
        }
        page.free.push(u8::try_from(id.slot()).ok()?);
        if page.free.len() == PAGE
            && let Some(other) = self.spare.replace(id.page())
            && let Some(empty) = self.pages.get_mut(other)
        {
            *empty = None;
        }
        Some(value)
    }

    /// A value.
    pub fn get(&self, id: Id) -> Option<&T> {
        self.pages.get(id.page())?.as_ref()?.slots.get(id.slot())?.as_ref()
    }

    /// A value, to change it.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.pages.get_mut(id.page())?.as_mut()?.slots.get_mut(id.slot())?.as_mut()
    }

    /// The values of a page, for visiting all values in portions.
    pub fn page(&self, number: usize) -> impl Iterator<Item = (Id, &T)> {
        let page = self.pages.get(number).and_then(Option::as_ref);
        page.into_iter().flat_map(move |page| {
            page.slots.iter().enumerate().filter_map(move |(slot, value)| {
                Some((Id::new(number, slot)?, value.as_ref()?))
            })
        })
    }

    /// The ids of the next `count` values, up to the end of the page that is filled next.
    pub fn next_ids(&self, count: usize) -> impl Iterator<Item = Id> {
        let number = self.open.last().copied().unwrap_or(self.pages.len());
        let page = self.pages.get(number).and_then(Option::as_ref);
        let slot = move |nth: usize| match page {
            Some(page) => page.free.iter().nth_back(nth).map(|slot| usize::from(*slot)),
            None => Some(nth),
        };
        (0..count).filter_map(move |nth| Id::new(number, slot(nth)?))
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
