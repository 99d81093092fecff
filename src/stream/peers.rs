//! The processes that share a piece of work.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use crate::{Error, ErrorKind, Result};

/// A process among its peers, with a way to send them bytes. Messages from one peer to another arrive in the order in
/// which they were sent.
pub trait Peers {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Sends bytes to another process.
    fn send(&self, to: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for bytes from another process.
    fn receive(&self, from: usize) -> Result<Vec<u8>>;
}

/// One process without peers.
///
/// ```
/// use onelens::stream::{Alone, Peers};
/// assert_eq!((Alone.rank(), Alone.size()), (0, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone;

impl Peers for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, _: &[u8]) -> Result<()> {
        Err(no_peer(to, 1))
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        Err(no_peer(from, 1))
    }
}

/// Peers that are threads of one process: for trying out on one machine what will run on many.
///
/// ```
/// use onelens::stream::{Peers, Threads};
/// let sums = Threads::run(3, |peers| {
///     if peers.rank() > 0 {
///         peers.send(0, &[peers.rank() as u8])?;
///         return Ok(0);
///     }
///     Ok(peers.receive(1)?[0] + peers.receive(2)?[0])
/// })?;
/// assert_eq!(sums, [3, 0, 0]);
/// # Ok::<(), onelens::Error>(())
/// ```
pub struct Threads {
    rank: usize,
    to: Vec<Mutex<Sender<Vec<u8>>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl Threads {
    /// Runs `work` in `size` threads that are peers; their results in the order of their ranks, or the first error.
    pub fn run<T: Send>(size: usize, work: impl Fn(&Threads) -> Result<T> + Sync) -> Result<Vec<T>> {
        let mut senders: Vec<Vec<Mutex<Sender<Vec<u8>>>>> = (0..size).map(|_| Vec::new()).collect();
        let mut receivers: Vec<Vec<Mutex<Receiver<Vec<u8>>>>> = (0..size).map(|_| Vec::new()).collect();
        for sends in &mut senders {
            for receives in &mut receivers {
                let (sender, receiver) = channel();
                sends.push(Mutex::new(sender));
                receives.push(Mutex::new(receiver));
            }
        }
        let peers = senders.into_iter().zip(receivers).enumerate();
        let peers: Vec<Threads> = peers.map(|(rank, (to, from))| Threads { rank, to, from }).collect();
        std::thread::scope(|scope| {
            let work = &work;
            // A peer that ends takes its channels along, so that nobody waits for it.
            let running: Vec<_> = peers.into_iter().map(|peer| scope.spawn(move || work(&peer))).collect();
            let ended = running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let ended: Vec<Result<T>> = ended.collect();
            // Of several errors the one that is not about a peer's end is the cause.
            let (good, bad): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
            let mut bad: Vec<Error> = bad.into_iter().filter_map(Result::err).collect();
            bad.sort_by_key(|e| e.what().contains("has ended"));
            match bad.into_iter().next() {
                Some(e) => Err(e),
                None => good.into_iter().collect(),
            }
        })
    }
}

impl Peers for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        let sender = self.to.get(to).ok_or_else(|| no_peer(to, self.size()))?;
        let sent = sender.lock().unwrap_or_else(PoisonError::into_inner).send(bytes.to_vec());
        sent.map_err(|_| ended(to))
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        let receiver = self.from.get(from).ok_or_else(|| no_peer(from, self.size()))?;
        receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().map_err(|_| ended(from))
    }
}

fn no_peer(rank: usize, size: usize) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("there is no peer {rank} among {size}"),
        format!("peers are 0 to {}", size - 1),
    )
}

fn ended(rank: usize) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("peer {rank} has ended before its work was done"),
        "its own error says why; finished shards are kept, so run the same again",
    )
}
