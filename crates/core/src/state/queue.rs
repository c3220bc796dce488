//! A first-in, first-out queue that returns its memory.

use std::collections::VecDeque;

/// The capacity that a queue keeps when it is empty.
const CAPACITY: usize = 1_024;

/// Takes the oldest item. A queue that was large returns its memory once it is empty.
#[inline]
pub(crate) fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let oldest = queue.pop_front();
    if oldest.is_none() && queue.capacity() > CAPACITY {
        *queue = VecDeque::new();
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_queue_returns_its_memory_once_it_is_empty() {
        let mut queue: VecDeque<u64> = (0..50_000).collect();
        while pop(&mut queue).is_some() {}
        assert_eq!(queue.capacity(), 0);
    }
}
