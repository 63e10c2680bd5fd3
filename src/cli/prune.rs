//! `thriftpd prune`: takes old files away (settings: `keep_days`, `keep_free`), as the running server does once a day.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argh::FromArgs;

use super::Outcome;
use crate::config::Config;
use crate::os::clock::Moment;
use crate::server::upkeep;
use crate::server::upkeep::prune::{CLOCK_ADVICE, Said, carry_out, last_believed, plans, summary};
use crate::storage::{Clock, Pruning};

/// How long the disks may take at the end to note what is stored now.
const LAST_COUNT: Duration = Duration::from_secs(60);

/// take away files that are older than they may be, and the oldest ones until a disk has room
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "prune")]
pub struct PruneArguments {
    /// take nothing away, but tell what would be
    #[argh(switch)]
    dry_run: bool,
    /// the clock is right although it is far from the newest time that is known
    #[argh(switch)]
    believe_clock: bool,
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// # Errors
/// How many things could not be done; each was told on standard error.
pub fn run(arguments: &PruneArguments) -> Outcome {
    let config = Config::load(&arguments.config).map_err(|error| error.to_string())?;
    let config = Arc::new(config);
    let clock = Clock {
        now: Moment::now(),
        believed: last_believed(&config),
        running_since: i64::MAX,
        misdated: None,
        is_vouched_for: arguments.believe_clock,
    };
    // What runs on the command line acts as who has typed it.
    let plans = plans(&config, clock.now.time, false);
    if plans.is_empty() {
        println!(
            "{}: nothing is ever taken away (settings: keep_days, keep_free)",
            arguments.config.display()
        );
    }
    let mut troubles = 0;
    for plan in plans {
        let pruning = Pruning {
            dry_run: arguments.dry_run,
            ..plan.pruning
        };
        if let Some(note) = &plan.note {
            println!("{note}");
        }
        let done = carry_out(&pruning, &clock, &mut |said| match said {
            Said::Gone(line) if arguments.dry_run => println!("{line}"),
            Said::Gone(_) => {}
            Said::Trouble(line) => {
                eprintln!("thriftpd: {line}");
                troubles += 1;
            }
            Said::Doubt(line) => {
                eprintln!("thriftpd: {line} ({CLOCK_ADVICE})");
                troubles += 1;
            }
        });
        if let Some(done) = done {
            println!("{}", summary(&pruning, &done));
        }
    }
    upkeep::close(&config, false, Instant::now() + LAST_COUNT);
    match troubles {
        0 => Ok(()),
        _ => Err("not everything could be done".into()),
    }
}
