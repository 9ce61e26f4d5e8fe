//! Publications on their way, shared by the client's threads: who has to
//! receive one, and whose delivery was the last.

use std::sync::atomic::{AtomicU32, Ordering};

/// The publications on their way to the members of rooms. Each room has places, and
/// in a place is one publication at a time.
///
/// A publication's number is `generation × places + place`, so one that comes
/// late is told from its successor.
pub(crate) struct Flights {
    rooms: usize,
    per_room: usize,
    /// Deliveries that a place's publication still waits for.
    remaining: Vec<AtomicU32>,
    /// Members of each room that read.
    members: Vec<AtomicU32>,
}

impl Flights {
    pub(crate) fn new(rooms: usize, per_room: usize) -> Self {
        Flights {
            rooms,
            per_room,
            remaining: (0..rooms * per_room).map(|_| AtomicU32::new(0)).collect(),
            members: (0..rooms).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    pub(crate) fn places(&self) -> usize {
        self.rooms * self.per_room
    }

    /// The places of one room.
    pub(crate) fn of_room(&self, room: usize) -> std::ops::Range<usize> {
        room * self.per_room..(room + 1) * self.per_room
    }

    pub(crate) fn room(&self, place: usize) -> usize {
        place / self.per_room
    }

    pub(crate) fn add_member(&self, room: usize) {
        self.members[room].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_member(&self, room: usize) {
        self.members[room].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn members(&self, room: usize) -> u32 {
        self.members[room].load(Ordering::Relaxed)
    }

    /// A publication takes `place`. Answers how many are to receive it.
    pub(crate) fn begin(&self, place: usize) -> u32 {
        let members = self.members(self.room(place));
        self.remaining[place].store(members, Ordering::Release);
        members
    }

    /// `count` members have received what is in `place`; true if that was all.
    pub(crate) fn arrived(&self, place: usize, count: u32) -> bool {
        self.remaining[place].fetch_sub(count, Ordering::AcqRel) == count
    }
}

/// What one thread has seen arrive, so that it needs to tell the others only
/// when all of its own members have it.
pub(crate) struct Arrivals {
    seen: Vec<(u64, u32)>,
    /// This thread's reading members of each room.
    members: Vec<u32>,
}

impl Arrivals {
    pub(crate) fn new(flights: &Flights) -> Self {
        Arrivals {
            seen: vec![(0, 0); flights.places()],
            members: vec![0; flights.rooms],
        }
    }

    pub(crate) fn add_member(&mut self, room: usize) {
        self.members[room] += 1;
    }

    pub(crate) fn remove_member(&mut self, room: usize) {
        self.members[room] -= 1;
    }

    /// How many of this thread's members have what is in `place`, and how many they are.
    pub(crate) fn of_place(&self, flights: &Flights, place: usize) -> (u32, u32) {
        (self.seen[place].1, self.members[flights.room(place)])
    }

    /// One delivery of publication `number`. The place, if this thread's
    /// members now all have it, and how many they are.
    pub(crate) fn delivery(&mut self, flights: &Flights, number: u64) -> Option<(usize, u32)> {
        let places = flights.places() as u64;
        let (generation, place) = (number / places, (number % places) as usize);
        let (seen, count) = self.seen.get_mut(place)?;
        if *seen < generation {
            (*seen, *count) = (generation, 0);
        }
        if *seen > generation {
            return None;
        }
        *count += 1;
        (*count == self.members[flights.room(place)]).then_some((place, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_delivery_of_all_threads_ends_a_flight() {
        let flights = Flights::new(2, 2);
        let mut threads = [Arrivals::new(&flights), Arrivals::new(&flights)];
        for thread in &mut threads {
            for _ in 0..3 {
                flights.add_member(1);
                thread.add_member(1);
            }
        }
        // Place 3 is the second of room 1; generation 5.
        let number = 5 * 4 + 3;
        assert_eq!(flights.begin(3), 6);
        assert_eq!(threads[0].delivery(&flights, number), None);
        assert_eq!(threads[0].delivery(&flights, number - 4), None);
        assert_eq!(threads[0].delivery(&flights, number), None);
        assert_eq!(threads[0].delivery(&flights, number), Some((3, 3)));
        assert!(!flights.arrived(3, 3));
        for _ in 0..2 {
            assert_eq!(threads[1].delivery(&flights, number), None);
        }
        assert_eq!(threads[1].delivery(&flights, number), Some((3, 3)));
        assert!(flights.arrived(3, 3));
    }
}
