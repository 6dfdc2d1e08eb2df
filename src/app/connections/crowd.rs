//! The connections there are at once. Each takes memory and a descriptor, so there are only so many: for one
//! more, one makes room: the oldest of those that never asked anything, or else the one that has asked nothing
//! for longest. A proxy that asks keeps its connection, whoever else connects and says nothing, or says it
//! ever so slowly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::AbortHandle;

/// The most connections, where the system allows that many descriptors.
const MAX_CONNECTIONS: usize = 4_096;

/// So many are always served.
const MIN_CONNECTIONS: usize = 64;

/// The connections, and how many there may be.
#[derive(Debug)]
pub(in crate::app) struct Crowd {
    most: usize,
    /// Counts the connections that came: the time by which it is told who asked last.
    came: Arc<AtomicU64>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    came: u64,
    asked: Asked,
    task: AbortHandle,
}

/// When a connection last asked anything.
#[derive(Clone, Debug)]
pub(in crate::app) struct Asked {
    came: Arc<AtomicU64>,
    /// Of `came`; 0 is never.
    last: Arc<AtomicU64>,
}

impl Crowd {
    /// One `part`th of the descriptors that the process may have are for connections of this kind.
    pub(in crate::app) fn part(part: u64) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = limit.and_then(|limit| usize::try_from(limit / part).ok());
        Self::of(most.unwrap_or(MAX_CONNECTIONS).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS))
    }

    fn of(most: usize) -> Self {
        Self { most, came: Arc::default(), members: Vec::new() }
    }

    /// What the next connection notes its calls by.
    pub(super) fn asked(&self) -> Asked {
        Asked { came: Arc::clone(&self.came), last: Arc::default() }
    }

    /// Adds the connection that `task` serves; ends another one if there are too many. Whether it did.
    pub(super) fn add(&mut self, asked: Asked, task: AbortHandle) -> bool {
        self.members.retain(|member| !member.task.is_finished());
        let longest = self.members.iter().enumerate().min_by_key(|(_, member)| member.worth());
        let longest = longest.map(|(index, _)| index);
        let ended = longest.filter(|_| self.members.len() >= self.most);
        if let Some(index) = ended {
            self.members.swap_remove(index).task.abort();
        }
        let came = self.came.fetch_add(1, Ordering::Relaxed) + 1;
        self.members.push(Member { came, asked, task });
        ended.is_some()
    }
}

impl Member {
    /// The least makes room first: when it last asked, or else when it came.
    fn worth(&self) -> (u64, u64) {
        (self.asked.last.load(Ordering::Relaxed), self.came)
    }
}

impl Asked {
    /// It asks now.
    pub(in crate::app) fn now(&self) {
        self.last.store(self.came.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// It has asked nothing yet.
    pub(super) fn never(&self) -> bool {
        self.last.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinHandle;

    use super::*;

    /// One more connection.
    fn connect(crowd: &mut Crowd) -> (Asked, JoinHandle<()>) {
        let (asked, task) = (crowd.asked(), tokio::spawn(pending()));
        crowd.add(asked.clone(), task.abort_handle());
        (asked, task)
    }

    #[tokio::test]
    async fn who_has_asked_nothing_for_longest_makes_room() {
        let mut crowd = Crowd::of(3);
        let (proxy, served) = connect(&mut crowd);
        let mut others: Vec<_> = (0..2).map(|_| connect(&mut crowd).1).collect();
        assert!(proxy.never());
        proxy.now();
        for _ in 0..10 {
            others.push(connect(&mut crowd).1);
            assert!(others.remove(0).await.unwrap_err().is_cancelled());
            assert!(others.iter().all(|other| !other.is_finished()) && !served.is_finished());
        }
        assert!(!proxy.never());
        assert_eq!(crowd.members.len(), 3);
        // Where all have asked, it is the one that did so first.
        for member in &crowd.members {
            member.asked.now();
        }
        proxy.now();
        connect(&mut crowd);
        connect(&mut crowd);
        assert!(!served.is_finished());
    }

    #[tokio::test]
    async fn those_that_have_ended_take_no_room() {
        let mut crowd = Crowd::of(2);
        let (_, first) = connect(&mut crowd);
        for _ in 0..10 {
            let (_, task) = connect(&mut crowd);
            task.abort();
            assert!(task.await.is_err());
        }
        assert!(!first.is_finished());
    }
}
