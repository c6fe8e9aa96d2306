//! Compares dumps that were made elsewhere, such as in a virtual machine: `dumps VERSION OURS OWN RUNNING`, three files with
//! the agent's dump of the crowd at rest, the crowd's own, and the agent's while one goroutine never waits.

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::crowd::{Spinning, goroutines, own_goroutines, same_dumps, spinning};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let version = args.next().context("a version")?;
    let mut read = |what| std::fs::read_to_string(args.next().context(what)?).context(what);
    let ours = goroutines(&read("the agent's dump")?)?;
    let own = own_goroutines(&read("the program's own dump")?)?;
    ensure!(own.len() > 30, "{} goroutines", own.len());
    same_dumps(&own, &ours)?;
    let running = spinning(&goroutines(&read("the dump of a running goroutine")?)?)?;
    ensure!(running == Spinning::Seen, "the stack of the running goroutine is not there: {running:?}");
    println!("go{version}: {} goroutines like in the program's own dump, and one that runs", own.len());
    Ok(())
}
