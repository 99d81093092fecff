//! Peers that are processes of an MPI job.

use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{Destination, Source};

use onelens::stream::Peers;
use onelens::{Error, ErrorKind, Result};

/// The processes that `mpirun` has started, each on its own part of the work.
///
/// If one of them ends with an error, [`Mpi::abort`] ends them all; finished shards that were kept in a folder are used
/// by the next run.
pub(crate) struct Mpi {
    world: SimpleCommunicator,
    // Ends MPI when dropped.
    _universe: Universe,
}

/// Bytes of one message: counts of MPI are 32 bits wide.
const MOST: usize = 1 << 30;

impl Mpi {
    /// Joins the job.
    ///
    /// Fails if this process has joined already: MPI is started once in a process.
    pub(crate) fn start() -> Result<Self> {
        // Only the thread that starts MPI calls it, while others compute.
        let started = mpi::initialize_with_threading(mpi::Threading::Serialized);
        let (universe, _) = started.ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "MPI was started in this process before",
                "keep the `Mpi` that was made first; restart the process to begin anew",
            )
        })?;
        Ok(Mpi { world: universe.world(), _universe: universe })
    }

    /// Ends all processes of the job with this exit code, without a further word.
    pub(crate) fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }
}

impl Peers for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        let peer = self.world.process_at_rank(to as i32);
        peer.send(&(bytes.len() as u64));
        for part in bytes.chunks(MOST) {
            peer.send(part);
        }
        Ok(())
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        let peer = self.world.process_at_rank(from as i32);
        let (len, _) = peer.receive::<u64>();
        let mut bytes = vec![0; len as usize];
        for part in bytes.chunks_mut(MOST) {
            peer.receive_into(part);
        }
        Ok(bytes)
    }
}
