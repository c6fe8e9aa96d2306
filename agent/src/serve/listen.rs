//! Sockets and connections. A connection has a time limit for its headers and for each write, and there are never more
//! than so many of them.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tracing::{debug, info, warn};

use super::{
    ServeError,
    guard::{Client, Peer},
    routes,
    settings::{Address, Live, Settings, SettingsError},
    state::State,
};

/// For a request's headers, from the connection's first byte or the end of the answer before.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// For a client to take what was sent to it.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// For answers under way when it is time to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// A request's line and headers, in bytes and number.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// After a failed accept, which is for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain\r\n\
    Content-Length: 21\r\nConnection: close\r\n\r\ntoo many connections\n";

enum Listener {
    Tcp(TcpListener, bool),
    Unix(UnixListener),
}

type Tls = Arc<RwLock<Option<Arc<ServerConfig>>>>;

/// All sockets.
pub(super) struct Server {
    listeners: Vec<Listener>,
    sockets: Vec<PathBuf>,
    connections: Arc<Semaphore>,
    tls: Tls,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Opens the sockets: an address that is taken is known before anything is attached.
    pub(super) fn bind(settings: &Settings, live: &Live) -> Result<Self, ServeError> {
        let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
        for address in &settings.listen {
            let failed = |why| ServeError::Listen { address: address.clone(), why };
            match address {
                Address::Tcp(socket) => {
                    let listener = std::net::TcpListener::bind(socket).map_err(failed)?;
                    listener.set_nonblocking(true).map_err(failed)?;
                    let scheme = if live.tls.is_some() { "https" } else { "http" };
                    info!("listening on {scheme}://{}", listener.local_addr().map_err(failed)?);
                    let listener = TcpListener::from_std(listener).map_err(failed)?;
                    listeners.push(Listener::Tcp(listener, address.is_local()));
                }
                Address::Unix(path) => {
                    listeners.push(Listener::Unix(bind_unix(path).map_err(failed)?));
                    sockets.push(path.clone());
                    info!("listening on {address}");
                }
            }
        }
        Ok(Self {
            listeners,
            sockets,
            connections: Arc::new(Semaphore::new(settings.limits.connections)),
            tls: Arc::new(RwLock::new(live.tls.clone())),
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
        })
    }

    /// Begins to answer.
    pub(super) fn start(&mut self, state: &Arc<State>) {
        let router = routes::router(state);
        for listener in self.listeners.drain(..) {
            let acceptor = Acceptor {
                router: router.clone(),
                state: Arc::clone(state),
                connections: Arc::clone(&self.connections),
                tls: Arc::clone(&self.tls),
                stop: self.stop.subscribe(),
            };
            self.tasks.spawn(acceptor.run(listener));
        }
    }

    /// Whether what was read again can be taken over: a port does not come or cease to be TLS while it is open.
    pub(super) fn check(&self, live: &Live) -> Result<(), SettingsError> {
        let now = self.tls.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if now == live.tls.is_some() {
            return Ok(());
        }
        let why = "turning TLS on or off takes a restart".to_owned();
        Err(SettingsError::Tls { path: PathBuf::from("the configuration"), why })
    }

    /// Another certificate for connections from now on.
    pub(super) fn reload(&self, live: &Live) {
        self.tls.write().unwrap_or_else(PoisonError::into_inner).clone_from(&live.tls);
    }

    /// Takes no more requests, and waits a moment for the answers under way.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, all).await.is_err() {
            debug!("answers under way were broken off");
        }
        self.tasks.abort_all();
        for socket in &self.sockets {
            // Whoever removed it before did no harm.
            let _ = fs::remove_file(socket);
        }
    }
}

/// A socket for root only. One that a daemon left behind is taken over, one that is in use is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        fs::remove_file(path)?;
    }
    // Nobody can connect before the mode is set: until then there is no listener.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener
}

struct Acceptor {
    router: Router,
    state: Arc<State>,
    connections: Arc<Semaphore>,
    tls: Tls,
    stop: watch::Receiver<bool>,
}

impl Acceptor {
    async fn run(mut self, listener: Listener) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                _ = self.stop.changed() => break,
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.begin(socket, peer, &mut tasks),
                    Err(error) => {
                        warn!("no connection accepted: {error}");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    fn begin(&self, socket: Socket, peer: Peer, tasks: &mut JoinSet<()>) {
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.state.metrics.rejected("connections");
            turn_away(socket, tasks);
            return;
        };
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(peer)));
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stop = self.stop.clone();
        tasks.spawn(async move {
            match (socket, tls) {
                (Socket::Unix(stream), _) => serve(stream, service, stop).await,
                (Socket::Tcp(stream), None) => serve(stream, service, stop).await,
                (Socket::Tcp(stream), Some(tls)) => {
                    match timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(tls).accept(stream)).await {
                        Ok(Ok(stream)) => serve(stream, service, stop).await,
                        Ok(Err(error)) => debug!("no TLS: {error}"),
                        Err(_) => debug!("no TLS in time"),
                    }
                }
            }
            drop(place);
        });
    }
}

/// Says that there is no place, to a client that takes it at once.
fn turn_away(socket: Socket, tasks: &mut JoinSet<()>) {
    // As many as there are tasks for; the others only see the end of the connection.
    const MOST: usize = 1024;
    if tasks.len() > MOST {
        return;
    }
    tasks.spawn(async move {
        let told = match socket {
            Socket::Tcp(mut stream) => timeout(PAUSE, stream.write_all(TURNED_AWAY)).await,
            Socket::Unix(mut stream) => timeout(PAUSE, stream.write_all(TURNED_AWAY)).await,
        };
        if !matches!(told, Ok(Ok(()))) {
            debug!("a client did not hear that there is no place for it");
        }
    });
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite,
    service: TowerToHyperService<Router>,
    mut stop: watch::Receiver<bool>,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_WITHIN));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let mut stream = std::pin::pin!(stream);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream.as_mut()), service));
    let done = tokio::select! {
        done = connection.as_mut() => done,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        debug!("a connection broke: {error}");
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener, loopback) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let client = Client::Host(address.ip().to_canonical());
                Ok((Socket::Tcp(stream), Peer { client, loopback: *loopback }))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let client = Client::User(stream.peer_cred()?.uid());
                Ok((Socket::Unix(stream), Peer { client, loopback: false }))
            }
        }
    }
}
