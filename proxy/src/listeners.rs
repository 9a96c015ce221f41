//! The ports that a worker listens on: as its workload says, for as long as it says so, and closed in
//! order when the sidecar ends.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_api::model::Workload;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::handover::{Inherited, Named};
use crate::inbound::{self, plaintext};
use crate::intercept::{self, Interception, Mode};
use crate::listen::{self, ListenError, Options};
use crate::outbound::route::Listener;
use crate::outbound::{self, intercepted};
use crate::refusal::Refusal;
use crate::worker::{Ending, Worker};

/// Before a port that could not be listened on is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at whether the app is still there.
const APP_POLL: Duration = Duration::from_millis(100);

/// A port that the sidecar listens on, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Port {
    Mesh(SocketAddr),
    Outbound(SocketAddr, Listener),
    /// Of the app, redirected.
    Intercepted(SocketAddr, Rc<Interception>),
    /// To the app, redirected.
    Plaintext(SocketAddr, Rc<Interception>),
}

impl Port {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Mesh(address)
            | Self::Outbound(address, _)
            | Self::Intercepted(address, _)
            | Self::Plaintext(address, _) => *address,
        }
    }

    fn purpose(&self) -> &'static str {
        match self {
            Self::Mesh(_) => "mesh port",
            Self::Outbound(_, Listener::ByAuthority) => "outbound HTTP port",
            Self::Outbound(..) => "upstream port",
            Self::Intercepted(..) => "outbound port",
            Self::Plaintext(..) => "inbound port",
        }
    }

    fn is_inbound(&self) -> bool {
        matches!(self, Self::Mesh(_) | Self::Plaintext(..))
    }

    fn options(&self, many: bool) -> Options {
        Options {
            transparent: matches!(self, Self::Plaintext(_, by) if by.mode == Mode::Tproxy),
            only_v6: matches!(self, Self::Intercepted(..) | Self::Plaintext(..)),
            shared: many,
        }
    }

    fn of(workload: &Workload, interception: Option<&Rc<Interception>>) -> Vec<Self> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let http = workload
            .outbound
            .http_port
            .map(|port| Self::Outbound(loopback(port), Listener::ByAuthority));
        let upstreams = workload.outbound.upstreams.iter().map(|upstream| {
            let listener = Listener::Upstream {
                service: upstream.service.clone(),
                port: upstream.port,
            };
            Self::Outbound(loopback(upstream.local_port), listener)
        });
        let intercepted = interception.into_iter().flat_map(|interception| {
            let of_family = move |ip: IpAddr| {
                let (outbound, inbound) = (interception.outbound_port, interception.inbound_port);
                [
                    Self::Intercepted((ip, outbound).into(), Rc::clone(interception)),
                    Self::Plaintext((ip, inbound).into(), Rc::clone(interception)),
                ]
            };
            // Each family has a socket of its own: which of them has redirected a connection is asked
            // in the family's own way.
            [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
                .into_iter()
                .flat_map(of_family)
        });
        std::iter::once(Self::Mesh(workload.mesh_address))
            .chain(http)
            .chain(upstreams)
            .chain(intercepted)
            .collect()
    }
}

/// The ports that are listened on now. Follows the workload.
pub struct Listeners {
    worker: Rc<Worker>,
    many: bool,
    inherited: Arc<Inherited>,
    open: HashMap<Port, Accepting>,
}

/// A socket that is listened on.
struct Accepting {
    listener: Rc<TcpListener>,
    task: JoinHandle<()>,
}

impl Listeners {
    pub fn new(worker: Rc<Worker>, many: bool, inherited: Arc<Inherited>) -> Self {
        Self {
            worker,
            many,
            inherited,
            open: HashMap::new(),
        }
    }

    /// Listens as the workload says, again whenever it changes. What the first time ends with is
    /// told to `first`; later failures are logged and tried again. Whoever wants copies of the sockets
    /// gets them.
    pub async fn keep(
        &mut self,
        first: &mpsc::UnboundedSender<Result<(), ListenError>>,
        mut wanted: mpsc::Receiver<oneshot::Sender<Vec<Named>>>,
    ) {
        let mut workload = self.worker.workload.clone();
        let mut told = false;
        loop {
            let current = workload.borrow_and_update().clone();
            let failed = match current {
                Some(current) => {
                    let result = self.follow(&current);
                    let failed = result.as_ref().err().map(ToString::to_string);
                    if !told {
                        told = true;
                        let _ = first.send(result);
                    }
                    failed
                }
                None => None,
            };
            let pause = async {
                match failed {
                    Some(error) => {
                        tracing::error!(error, "will be tried again");
                        tokio::time::sleep(BIND_AGAIN).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = workload.changed() => if changed.is_err() { return },
                Some(reply) = wanted.recv() => {
                    // Whoever asked may have gone.
                    let _ = reply.send(self.copies());
                }
                () = pause => {}
            }
        }
    }

    fn follow(&mut self, workload: &Workload) -> Result<(), ListenError> {
        let wanted = Port::of(workload, self.worker.interception.as_ref());
        self.open.retain(|port, accepting| {
            let keep = wanted.contains(port);
            if !keep {
                accepting.task.abort();
            }
            keep
        });
        for port in wanted {
            if !self.open.contains_key(&port) {
                let options = port.options(self.many);
                let listener =
                    match listen::bind(port.address(), port.purpose(), options, &self.inherited) {
                        Ok(listener) => listener,
                        Err(error) if has_no_such_family(&port, &error.error) => {
                            tracing::info!(address = %port.address(), "this host has no IPv6");
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                tracing::info!(address = %port.address(), purpose = port.purpose(), "listening");
                let listener = Rc::new(listener);
                let task = self.accept(&port, Rc::clone(&listener));
                self.open.insert(port, Accepting { listener, task });
            }
        }
        Ok(())
    }

    fn accept(&self, port: &Port, listener: Rc<TcpListener>) -> JoinHandle<()> {
        let worker = Rc::clone(&self.worker);
        let shed = self.shed(port);
        match port {
            Port::Mesh(_) => {
                let serve = move |stream, from| {
                    tokio::task::spawn_local(inbound::serve(Rc::clone(&worker), stream, from));
                };
                tokio::task::spawn_local(listen::accept_traffic(listener, serve, shed))
            }
            Port::Outbound(_, target) => {
                let target = Rc::new(target.clone());
                let serve = move |stream, from: SocketAddr| {
                    let (worker, target) = (Rc::clone(&worker), Rc::clone(&target));
                    tokio::task::spawn_local(outbound::serve(worker, stream, from.ip(), target));
                };
                tokio::task::spawn_local(listen::accept_traffic(listener, serve, shed))
            }
            Port::Intercepted(_, by) => {
                let by = Rc::clone(by);
                let serve = move |stream, from: SocketAddr| {
                    let (worker, by) = (Rc::clone(&worker), Rc::clone(&by));
                    tokio::task::spawn_local(intercepted::serve(worker, by, stream, from.ip()));
                };
                tokio::task::spawn_local(listen::accept_traffic(listener, serve, shed))
            }
            Port::Plaintext(_, by) => {
                let by = Rc::clone(by);
                let serve = move |stream, from| {
                    let (worker, by) = (Rc::clone(&worker), Rc::clone(&by));
                    tokio::task::spawn_local(plaintext::serve(worker, by, stream, from));
                };
                tokio::task::spawn_local(listen::accept_traffic(listener, serve, shed))
            }
        }
    }

    /// What becomes of a connection when there are no file descriptors: its client is not to wait for
    /// what may never come.
    fn shed(&self, port: &Port) -> impl FnMut(TcpStream) + use<> {
        let metrics = Arc::clone(&self.worker.metrics);
        let direction = if port.is_inbound() {
            "inbound"
        } else {
            "outbound"
        };
        move |stream| {
            metrics.refused(direction, Refusal::TooManyConnections, "");
            intercept::reset(stream);
        }
    }

    fn copies(&self) -> Vec<Named> {
        let open = self.open.iter();
        open.filter_map(|(port, accepting)| listen::copy(port.address(), &accepting.listener))
            .collect()
    }

    /// Ends in order: nothing new comes in, what came in is finished while the app may still call
    /// out, and then nothing goes out.
    pub async fn drain(mut self, why: Ending) {
        let limit = self.worker.drain_timeout();
        tracing::info!(
            ?limit,
            inbound = self.worker.inbound.count(),
            outbound = self.worker.outbound.count(),
            "draining"
        );
        if why == Ending::Replaced {
            // All that comes from now on is another's.
            self.stop(|_| true);
        }
        let ended = tokio::time::timeout(limit, async {
            self.stop(Port::is_inbound);
            self.worker.inbound.finish().await;
            if self.worker.interception.is_some() && why == Ending::Terminated {
                self.app_has_gone().await;
            }
            self.stop(|port| !port.is_inbound());
            self.worker.outbound.finish().await;
        });
        match ended.await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!(
                inbound = self.worker.inbound.count(),
                outbound = self.worker.outbound.count(),
                "the time to drain is over: what is open is cut"
            ),
        }
    }

    fn stop(&mut self, which: impl Fn(&Port) -> bool) {
        for (_, accepting) in self.open.extract_if(|port, _| which(port)) {
            accepting.task.abort();
        }
    }

    /// An app that knows nothing of its sidecar may call out until its very end: resolves when nobody
    /// listens on any of its ports any more. Of an app without ports nothing tells: it has all the time
    /// that there is.
    async fn app_has_gone(&self) {
        while let Some(us) = self.worker.workload() {
            let mut listens = us.ports.is_empty();
            for port in &us.ports {
                let address = SocketAddr::new(us.app_address, port.port);
                listens |= TcpStream::connect(address).await.is_ok();
            }
            if !listens {
                return;
            }
            tokio::time::sleep(APP_POLL).await;
        }
    }
}

/// IPv6 is switched off, or not built into the kernel.
fn has_no_such_family(port: &Port, error: &io::Error) -> bool {
    port.address().is_ipv6()
        && port.address().ip().is_unspecified()
        && (error.kind() == io::ErrorKind::AddrNotAvailable
            || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()))
}
