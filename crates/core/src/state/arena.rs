//! Where the locks live: slots in pages, so that growing moves nothing (a `Vec` of a
//! million locks would be copied in one go, and every client would wait for it), and a
//! page that empties is given back.

/// Slots of a page. Small enough to allocate in no time, large enough to be few.
const PAGE: usize = 256;

/// Where something is kept. Given out anew after it was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u32);

impl Id {
    /// The first of all in their order.
    pub(crate) const FIRST: Self = Self(0);

    /// The last.
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

    /// Its place in the order of slots.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

#[derive(Clone, Debug)]
struct Page<T> {
    slots: Box<[Option<T>]>,
    /// Slots that are free.
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

/// Many values of one kind, each found by its [`Id`] in one step.
#[derive(Clone, Debug)]
pub struct Arena<T> {
    /// A page without values is not kept: `None`.
    pages: Vec<Option<Page<T>>>,
    /// Pages that have a free slot, or are not there: each once.
    open: Vec<usize>,
    /// The one page that is kept although it is empty: a lock taken and given back in
    /// turns must not allocate a page each time.
    spare: Option<usize>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), open: Vec::new(), spare: None }
    }
}

impl<T> Arena<T> {
    /// Keeps a value. None when four thousand million are kept already.
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

    /// Takes a value out.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let page = self.pages.get_mut(id.page())?.as_mut()?;
        let value = page.slots.get_mut(id.slot())?.take()?;
        if page.free.is_empty() {
            self.open.push(id.page());
        }
        page.free.push(u8::try_from(id.slot()).ok()?);
        if page.free.len() == PAGE
            && let Some(other) = self.spare.replace(id.page())
            && let Some(position) = self.pages.get_mut(other)
        {
            *position = None;
        }
        Some(value)
    }

    /// The value kept there.
    pub fn get(&self, id: Id) -> Option<&T> {
        self.pages.get(id.page())?.as_ref()?.slots.get(id.slot())?.as_ref()
    }

    /// The value kept there, to change it.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.pages.get_mut(id.page())?.as_mut()?.slots.get_mut(id.slot())?.as_mut()
    }

    /// The values of a page, and whether there are more pages behind it: for walking over
    /// all of them in portions.
    pub fn page(&self, number: usize) -> impl Iterator<Item = (Id, &T)> {
        let page = self.pages.get(number).and_then(Option::as_ref);
        page.into_iter().flat_map(move |page| {
            page.slots.iter().enumerate().filter_map(move |(slot, value)| {
                Some((Id::new(number, slot)?, value.as_ref()?))
            })
        })
    }

    /// Where the next `count` values will be kept, as far as the page goes that is filled
    /// now.
    pub fn next_ids(&self, count: usize) -> impl Iterator<Item = Id> {
        let number = self.open.last().copied().unwrap_or(self.pages.len());
        let page = self.pages.get(number).and_then(Option::as_ref);
        let slot = move |nth: usize| match page {
            Some(page) => page.free.iter().nth_back(nth).map(|slot| usize::from(*slot)),
            None => Some(nth),
        };
        (0..count).filter_map(move |nth| Id::new(number, slot(nth)?))
    }

    /// How many pages there are, empty ones included.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_its_value_until_it_is_removed() {
        let mut arena = Arena::default();
        let ids: Vec<Id> = (0..1000).map(|n| arena.insert(n).unwrap()).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(arena.get(*id), Some(&n));
        }
        assert_eq!(arena.remove(ids[500]), Some(500));
        assert_eq!(arena.get(ids[500]), None);
        assert_eq!(arena.remove(ids[500]), None);
        assert_eq!(arena.insert(7777), Some(ids[500]));
        let state: usize = (0..arena.pages()).map(|page| arena.page(page).count()).sum();
        assert_eq!(state, 1000);
    }

    #[test]
    fn empty_pages_are_given_back_and_used_again() {
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
