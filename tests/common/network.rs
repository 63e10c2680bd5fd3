//! Another host for a test: two network namespaces of the test's own with a cable between them, that of the calling thread and
//! one far away.

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::common::run_client;

type Work = Box<dyn FnOnce() + Send>;

/// The other host. It ends with the value.
pub struct Far {
    work: Sender<Work>,
}

/// The address of this thread's end of the cable.
pub const HERE: &str = "10.99.0.1";
const THERE: &str = "10.99.0.2";
/// The same, of this link alone.
pub const LINK_LOCAL: &str = "fe80::1";

/// ip(8), in the network of the calling thread.
pub fn ip(arguments: &str) {
    run_client(Command::new("ip").args(arguments.split(' ')), 20).succeeded();
}

impl Far {
    /// From now on the calling thread, and what it starts, is in a network of its own. None, and why on standard error, where
    /// that is not allowed.
    pub fn new() -> Option<Self> {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            crate::common::skip(format_args!("no network namespace can be made: {errno}"));
            return None;
        }
        let (work, orders): (Sender<Work>, Receiver<Work>) = channel();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid()).unwrap();
            orders.into_iter().for_each(|work| work());
        });
        let there = told.recv().unwrap();
        let far = Self { work };
        ip("link set lo up");
        ip(&format!(
            "link add here type veth peer name there netns {there}"
        ));
        ip(&format!("addr add {HERE}/24 dev here"));
        ip("link set here up");
        ip(&format!("addr add {LINK_LOCAL}/64 dev here nodad"));
        far.run(|| {
            ip("link set lo up");
            ip(&format!("addr add {THERE}/24 dev there"));
            ip("link set there up");
            ip("addr add fe80::2/64 dev there nodad");
        });
        Some(far)
    }

    /// Does something on the other host, and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let work = move || drop(tell.send(work()));
        self.work.send(Box::new(work)).unwrap();
        told.recv().expect("what was done there has failed")
    }

    /// Nothing goes over it any more, and nobody is told.
    pub fn pull_the_cable(&self) {
        self.run(|| ip("link set there down"));
    }
}
