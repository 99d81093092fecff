//! `.await` at the top of a cell: the stage is a future, and the cell's thread waits for it.

use crate::stage::Failure;
use std::any::Any;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// Waits for a future that needs no runtime.
pub fn block_on<R>(future: impl Future<Output = Result<R, Failure>>) -> Result<R, Failure> {
    let mut future = pin!(until_interrupted(future));
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => unpark.wait(),
        }
    }
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Unpark {
    fn wait(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The future, or an interrupt if that comes first: then the future is dropped where it waits.
pub async fn until_interrupted<R>(future: impl Future<Output = Result<R, Failure>>) -> Result<R, Failure> {
    let mut future = pin!(future);
    let mut watch = None;
    poll_fn(move |context| {
        if onelens::session::interrupted() {
            return Poll::Ready(Err(Failure::interrupted()));
        }
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            watch.get_or_insert_with(Watch::start).wake(context.waker());
        }
        polled
    })
    .await
}

/// A thread that wakes a waiting cell when it is interrupted.
struct Watch {
    waker: Arc<Mutex<Option<Waker>>>,
    thread: Option<Thread>,
}

impl Watch {
    #[inline(never)]
    fn start() -> Watch {
        let waker = Arc::new(Mutex::new(None::<Waker>));
        // The other end of the pair is the cell's: when it is gone, nobody waits.
        let watched = Arc::downgrade(&waker);
        let watch = move || {
            while let Some(waker) = watched.upgrade() {
                if onelens::session::interrupted()
                    && let Some(waker) = waker.lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    waker.wake();
                }
                drop(waker);
                thread::park_timeout(Duration::from_millis(20));
            }
        };
        let thread = thread::Builder::new().name("interrupts".into()).spawn(watch);
        Watch { waker, thread: thread.ok().map(|handle| handle.thread().clone()) }
    }

    #[inline(never)]
    fn wake(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.waker = Arc::default();
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

/// One value per name and process, such as the runtime that a session's futures run in. Its threads do not survive
/// a fork, so a woken copy makes it anew.
pub fn once_per_process<T: Any + Send + Sync>(
    name: &'static str,
    make: impl FnOnce() -> std::io::Result<T>,
) -> Result<&'static T, Failure> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if let Some((process, value)) = kept.get(name)
        && *process == own
        && let Some(value) = value.downcast_ref()
    {
        return Ok(value);
    }
    // Never dropped: it may own threads that are in another process.
    let value: &'static T = Box::leak(Box::new(make()?));
    kept.insert(name, (own, value));
    Ok(value)
}

type Kept = BTreeMap<&'static str, (u32, &'static (dyn Any + Send + Sync))>;

static KEPT: Mutex<Kept> = Mutex::new(BTreeMap::new());
