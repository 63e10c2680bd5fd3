//! Allocations that commands cost, counted by an allocator that this program has and the server does not: on a small host they
//! are time, and holes in its memory.
//!
//! The server is this program again, which runs it instead of the tests.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use argh::FromArgs as _;
use common::{Client, Server};
use thriftpd::cli::serve;

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Where the server tells the number.
const TELLS: &str = "THRIFTPD_TEST_ALLOCATIONS";

#[test]
#[ignore = "is the server of the others"]
fn serves_and_counts() {
    let Some(tells) = std::env::var_os(TELLS) else {
        return;
    };
    let listener = UnixListener::bind(tells).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut asking, _)) = listener.accept() {
            let count = ALLOCATIONS.load(Ordering::Relaxed);
            asking.write_all(&count.to_le_bytes()).unwrap();
        }
    });
    let arguments: Vec<String> = std::env::args().collect();
    let own = arguments.iter().position(|word| word == "serve").unwrap();
    let arguments: Vec<&str> = arguments[own + 1..].iter().map(String::as_str).collect();
    let arguments = serve::ServeArguments::from_args(&["thriftpd", "serve"], &arguments);
    serve::run(arguments.unwrap()).unwrap();
}

/// A server that counts.
struct Counted {
    server: Server,
    tells: PathBuf,
}

impl Counted {
    fn start() -> Self {
        let this = std::env::current_exe().unwrap();
        // Words behind the two dashes are more names of tests, of which there are none.
        let program = [
            this.to_str().unwrap(),
            "--ignored",
            "--exact",
            "--nocapture",
            "serves_and_counts",
            "--",
        ];
        let builder = Server::build().keys("sandbox = \"off\"\n");
        let tells = builder.root().with_file_name("allocations");
        let builder = builder.environment(TELLS, tells.to_str().unwrap());
        let server = builder.under(&program).start();
        Self { server, tells }
    }

    fn count(&self) -> usize {
        let mut count = [0; size_of::<usize>()];
        let mut asked = UnixStream::connect(&self.tells).unwrap();
        asked.read_exact(&mut count).unwrap();
        usize::from_le_bytes(count)
    }

    /// The fewest of several times: other threads of the server have their own work.
    fn cost(&self, mut act: impl FnMut()) -> usize {
        // What is found out once is known then.
        act();
        let costs = (0..5).map(|_| {
            let before = self.count();
            act();
            self.count() - before
        });
        let cost = costs.min().unwrap();
        assert!(cost > 0, "nothing was counted");
        cost
    }

    /// What each of a thousand more entries costs, in thousandths.
    fn cost_of_an_entry(&self, client: &mut Client, verb: &str) -> usize {
        let cost = |client: &mut Client, directory: &str| {
            self.cost(|| drop(client.list(format!("{verb} {directory}"))))
        };
        let (few, many) = (cost(client, "few"), cost(client, "many"));
        let cost = many.saturating_sub(few);
        println!("{verb}: {few}, and {cost} for 1000 entries more");
        cost
    }
}

fn fill(server: &Server) {
    for (directory, count) in [("few", 1000), ("many", 2000)] {
        for number in 0..count {
            server.write(format!("{directory}/file-{number:04}"), "");
        }
    }
}

#[test]
fn an_entry_of_a_listing_is_told_without_allocations() {
    let counted = Counted::start();
    fill(&counted.server);
    let mut client = counted.server.client();
    for verb in ["NLST", "LIST", "MLSD"] {
        let cost = counted.cost_of_an_entry(&mut client, verb);
        assert!(
            cost < 50,
            "{verb}: {cost} allocations for a thousand entries"
        );
    }
}

#[test]
fn a_transfer_of_a_small_file_makes_few_allocations() {
    let counted = Counted::start();
    counted.server.write("file", common::noise(4096));
    let mut client = counted.server.client();
    let stored = counted.cost(|| client.stor("stored", &common::noise(4096)));
    let fetched = counted.cost(|| drop(client.retr("file")));
    println!("STOR: {stored}, RETR: {fetched}");
    assert!(stored <= 60, "STOR: {stored} allocations");
    assert!(fetched <= 30, "RETR: {fetched} allocations");
}
