//! Sockets over [`zmtp`]: one that listens and has many peers, one that dials and has one.
//!
//! Every connection has a thread that reads and a thread that writes. Nothing that a peer sends, and nothing that it
//! fails to read, can hold up the others: a sender only appends to the queue of each peer.

use crate::base::lock;
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::zmtp::{self, Incoming, Kind};

/// One connection of a [`Listener`].
pub type PeerId = u64;

/// How many bytes may wait for a peer that does not read before further messages to it are dropped.
const MAX_WAITING: usize = 512 << 20;
/// How long a connection may take to become a ZeroMQ connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A message, a subscription or a cancelled one, from one of the peers of a [`Listener`].
pub type Handler = dyn Fn(PeerId, Incoming) + Send + Sync;

/// A listening socket: router, publisher or answerer.
#[derive(Clone)]
pub struct Listener {
    port: u16,
    peers: Arc<Mutex<HashMap<PeerId, Peer>>>,
}

struct Peer {
    identity: Vec<u8>,
    writer: Writer,
    topics: Vec<Vec<u8>>,
}

impl Listener {
    /// Listens at `ip` and `port` (0: any free one). `handler` runs on the thread of the peer that sent.
    pub fn bind(ip: IpAddr, port: u16, kind: Kind, handler: Box<Handler>) -> io::Result<Listener> {
        let socket = TcpListener::bind((ip, port))?;
        let listener = Listener { port: socket.local_addr()?.port(), peers: Arc::default() };
        let peers = listener.peers.clone();
        let handler: Arc<Handler> = handler.into();
        std::thread::Builder::new().name(format!("{kind:?} accept")).spawn(move || {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            for stream in socket.incoming() {
                let Ok(stream) = stream else {
                    // Out of file handles, most likely: give the others time to close some.
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let id = NEXT.fetch_add(1, Ordering::Relaxed);
                let (peers, handler) = (peers.clone(), handler.clone());
                let serve = move || {
                    let _ = serve_peer(id, stream, kind, &peers, &*handler);
                    if let Some(peer) = lock(&peers).remove(&id) {
                        peer.writer.close();
                    }
                };
                let _ = std::thread::Builder::new().name(format!("{kind:?} read")).spawn(serve);
            }
        })?;
        Ok(listener)
    }

    /// The port in use.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Queues a message for one peer; nothing happens if it has gone.
    pub fn send(&self, peer: PeerId, frames: &[impl AsRef<[u8]>]) {
        if let Some(peer) = lock(&self.peers).get(&peer) {
            peer.writer.send(zmtp::encode(frames).into());
        }
    }

    /// Queues a message for every peer with a subscription that the first frame starts with.
    pub fn publish(&self, frames: &[impl AsRef<[u8]>]) {
        let Some(topic) = frames.first().map(AsRef::as_ref) else { return };
        let peers = lock(&self.peers);
        let mut bytes: Option<Arc<[u8]>> = None;
        for peer in peers.values().filter(|p| p.topics.iter().any(|t| topic.starts_with(t))) {
            peer.writer.send(bytes.get_or_insert_with(|| zmtp::encode(frames).into()).clone());
        }
    }

    /// Whether anybody is connected.
    pub fn has_peer(&self) -> bool {
        !lock(&self.peers).is_empty()
    }

    /// The identity that a peer gave itself; the sockets of one client have the same.
    pub fn identity(&self, peer: PeerId) -> Option<Vec<u8>> {
        lock(&self.peers).get(&peer).map(|peer| peer.identity.clone())
    }

    /// The peer with this identity; for a client that gives none, the only peer there is.
    pub fn with_identity(&self, identity: &[u8]) -> Option<PeerId> {
        let peers = lock(&self.peers);
        match identity {
            [] => peers.keys().next().copied().filter(|_| peers.len() == 1),
            _ => peers.iter().find(|(_, peer)| peer.identity == identity).map(|(id, _)| *id),
        }
    }

    /// Waits until everything queued is with the operating system, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        let start = Instant::now();
        while start.elapsed() < limit && lock(&self.peers).values().any(|p| p.writer.waiting() > 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn serve_peer(
    id: PeerId,
    mut stream: TcpStream,
    kind: Kind,
    peers: &Mutex<HashMap<PeerId, Peer>>,
    handler: &Handler,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    let identity = zmtp::handshake(&mut stream, kind, b"")?;
    stream.set_read_timeout(None)?;
    let writer = Writer::start(stream.try_clone()?)?;
    lock(peers).insert(id, Peer { identity, writer: writer.clone(), topics: Vec::new() });
    let mut reader = BufReader::new(stream);
    loop {
        let mut incoming = zmtp::read(&mut reader)?;
        if let (Kind::XPub, Incoming::Message(frames)) = (kind, &incoming) {
            incoming = zmtp::subscription(frames);
        }
        match &incoming {
            Incoming::Ping(context) => {
                writer.send(zmtp::pong(context).into());
                continue;
            }
            Incoming::Subscribe(topic) => {
                if let Some(peer) = lock(peers).get_mut(&id).filter(|p| p.topics.len() < 1000) {
                    peer.topics.push(topic.clone());
                }
            }
            Incoming::Unsubscribe(topic) => {
                if let Some(peer) = lock(peers).get_mut(&id) {
                    peer.topics.retain(|t| t != topic);
                }
            }
            Incoming::Other => continue,
            Incoming::Message(_) => {}
        }
        handler(id, incoming);
    }
}

/// A dialling socket: dealer or subscriber. What arrives goes to a closure; `None` means the connection has ended.
pub struct Dialer {
    writer: Writer,
}

impl Dialer {
    /// Connects to `address`, trying until `limit` has passed: the far end may not listen yet.
    pub fn connect(
        address: SocketAddr,
        kind: Kind,
        identity: &[u8],
        limit: Duration,
        on_message: impl Fn(Option<Vec<Vec<u8>>>) + Send + 'static,
    ) -> io::Result<Dialer> {
        let start = Instant::now();
        let mut stream = loop {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => break stream,
                Err(e) if start.elapsed() >= limit => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE))?;
        zmtp::handshake(&mut stream, kind, identity)?;
        stream.set_read_timeout(None)?;
        let writer = Writer::start(stream.try_clone()?)?;
        let answers = writer.clone();
        std::thread::Builder::new().name(format!("{kind:?} read")).spawn(move || {
            let mut reader = BufReader::new(stream);
            while let Ok(incoming) = zmtp::read(&mut reader) {
                match incoming {
                    Incoming::Message(frames) => on_message(Some(frames)),
                    Incoming::Ping(context) => answers.send(zmtp::pong(&context).into()),
                    _ => {}
                }
            }
            on_message(None);
        })?;
        Ok(Dialer { writer })
    }

    /// Queues a message.
    pub fn send(&self, frames: &[impl AsRef<[u8]>]) {
        self.writer.send(zmtp::encode(frames).into());
    }

    /// Queues bytes that are already framed, such as a subscription.
    pub fn send_raw(&self, bytes: Vec<u8>) {
        self.writer.send(bytes.into());
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.writer.close();
    }
}

/// The queue of bytes on their way to one peer.
#[derive(Clone)]
struct Writer {
    queue: Sender<Arc<[u8]>>,
    waiting: Arc<AtomicUsize>,
    stream: Arc<TcpStream>,
}

impl Writer {
    fn start(stream: TcpStream) -> io::Result<Writer> {
        let (queue, rest): (_, Receiver<Arc<[u8]>>) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer { queue, waiting: waiting.clone(), stream: Arc::new(stream.try_clone()?) };
        let mut stream = stream;
        std::thread::Builder::new().name("write".into()).spawn(move || {
            for bytes in rest {
                let gone = stream.write_all(&bytes).is_err();
                waiting.fetch_sub(bytes.len(), Ordering::SeqCst);
                if gone {
                    break;
                }
            }
        })?;
        Ok(writer)
    }

    fn send(&self, bytes: Arc<[u8]>) {
        let n = bytes.len();
        if self.waiting.fetch_add(n, Ordering::SeqCst) > MAX_WAITING || self.queue.send(bytes).is_err() {
            self.waiting.fetch_sub(n, Ordering::SeqCst);
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
