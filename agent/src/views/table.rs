//! A snapshot as a table for people.

use std::{cmp::Reverse, collections::HashMap, fmt::Write as _, path::Path};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use parkranger_common::counts::ProcessId;

use super::story;
use crate::{
    governor::Fidelity,
    snapshot::{ProcessSnapshot, SiteSnapshot, Snapshot},
    symbols::Frame,
};

/// What rows are sorted by, largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Goroutines there are.
    #[default]
    Live,
    /// Goroutines created.
    Births,
    /// Goroutines ended.
    Exits,
    /// Times a goroutine parked.
    Parks,
}

impl Sort {
    /// What sites are sorted by, the largest first.
    #[must_use]
    pub fn key(self, site: &SiteSnapshot) -> (i64, u64) {
        let of = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let first = match self {
            Self::Live => site.live,
            Self::Births => of(site.births),
            Self::Exits => of(site.exits),
            Self::Parks => of(site.parks),
        };
        (first, site.births)
    }
}

/// How a table is made.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    /// The order of rows.
    pub sort: Sort,
    /// Most rows of one process.
    pub limit: usize,
    /// Show who made the goroutines of this many rows: the stack of the `go` statement when its site was first seen.
    pub stacks: usize,
    /// Columns there are; `None` for as many as it takes.
    pub width: Option<u16>,
    /// Lines there are; `None` for as many as it takes. Rows that do not fit are counted, not dropped silently.
    pub height: Option<u16>,
}

/// Rows and lines of one process around its rows: title, goroutines, head, remainder, blank.
const LINES_AROUND: usize = 5;

/// Shows `snapshot`, with rates since `before` where there is one.
#[must_use]
pub fn render(snapshot: &Snapshot, before: Option<&Snapshot>, options: TableOptions) -> String {
    let mut text = String::new();
    let seconds = before
        .and_then(|before| snapshot.time.duration_since(before.time).ok())
        .map(|elapsed| elapsed.as_secs_f64())
        .filter(|seconds| *seconds > 0.0);
    let earlier: HashMap<ProcessId, &ProcessSnapshot> = before
        .filter(|_| seconds.is_some())
        .map(|before| before.processes.iter().map(|process| (process.id, &**process)).collect())
        .unwrap_or_default();
    let mut processes: Vec<&ProcessSnapshot> =
        snapshot.processes.iter().filter(|process| !process.brief).map(|process| &**process).collect();
    processes.sort_by_key(|process| Reverse(process_key(process, options.sort)));
    let shares = share_lines(&processes, options);
    let mut hidden = 0;
    for (process, rows) in processes.iter().zip(&shares) {
        if *rows == 0 && !process.sites.is_empty() {
            hidden += 1;
            continue;
        }
        let earlier = earlier.get(&process.id).copied().zip(seconds);
        render_process(&mut text, process, earlier, *rows, options);
    }
    if hidden > 0 {
        let _ = writeln!(text, "… and {hidden} more process{}", plural(hidden, "es"));
    }
    text.push_str(&super::by_binary::render(snapshot, options.limit));
    if snapshot.processes.is_empty() {
        text.push_str("No process is being watched.\n");
    }
    if snapshot.refused > 0 {
        let _ = writeln!(
            text,
            "{} Go process{} cannot be watched: `parkranger check` says why",
            snapshot.refused,
            plural(snapshot.refused, "es")
        );
    }
    for (why, count) in &snapshot.not_looked_at {
        let _ = writeln!(text, "{count} process{} not looked at: {why}", plural(*count as usize, "es"));
    }
    for (name, count) in &snapshot.losses {
        let _ = writeln!(text, "LOST {name}: {count}{}", way_out(name));
    }
    text
}

/// What makes room for what was lost.
fn way_out(loss: &str) -> &'static str {
    match loss {
        "site_map_full" | "wait_map_full" => " (--max-sites gives more room)",
        "process_map_full" => " (--max-processes gives more room)",
        _ => "",
    }
}

/// How many rows each process gets: the limit, or a fair share of the screen.
fn share_lines(processes: &[&ProcessSnapshot], options: TableOptions) -> Vec<usize> {
    let wanted: Vec<usize> = processes.iter().map(|process| process.sites.len().min(options.limit)).collect();
    let Some(height) = options.height else { return wanted };
    // Two lines for what is said under the tables.
    let mut left = usize::from(height).saturating_sub(2);
    if options.stacks > 0 {
        // Stacks are for reading at leisure: the screen scrolls.
        return wanted;
    }
    let mut shares = Vec::with_capacity(wanted.len());
    for (index, (wanted, process)) in wanted.iter().zip(processes).enumerate() {
        let around =
            LINES_AROUND + usize::from(given_up(process).is_some()) + process.story.as_deref().map_or(0, story::lines);
        let fair = (left / (processes.len() - index)).max(left.min(around + 3));
        let rows = fair.saturating_sub(around).min(*wanted);
        left = left.saturating_sub(if rows > 0 { rows + around } else { 0 });
        shares.push(rows);
    }
    shares
}

/// What an audit found wrong: nothing, in a healthy run.
fn drift(process: &ProcessSnapshot) -> String {
    if process.audits.drift == 0 { String::new() } else { format!(" DRIFT {}", process.audits.drift) }
}

/// What is recorded where that is less than everything, and what watching costs.
fn governed(process: &ProcessSnapshot) -> String {
    let governed = &process.governed;
    let mut text = String::new();
    if governed.fidelity != Fidelity::Full {
        let _ = write!(text, "  {}", governed.fidelity);
        if let Some(share) = process.missing.slice_share.filter(|_| governed.fidelity.is_sampled()) {
            let _ = write!(text, " {:.1} %", share * 100.0);
        }
    }
    if let Some(cost) = governed.cost.filter(|_| !process.ended) {
        let _ = write!(text, "  costs {:.1} %", cost * 100.0);
    }
    text
}

/// Events that are not counted at the present fidelity, and which budget would have it counted.
fn given_up(process: &ProcessSnapshot) -> Option<String> {
    let share = process.missing.slice_share.map_or(0.0, |share| share * 100.0);
    let totals = if process.totals_are_exact { "; their totals are exact" } else { "" };
    let what = match process.governed.fidelity {
        _ if process.ended => return None,
        Fidelity::Full | Fidelity::Story => return None,
        Fidelity::Sampled => format!("parks are estimated from {share:.1} % of the time"),
        Fidelity::Lifecycle => "parks are not counted".to_owned(),
        Fidelity::Sparse => {
            format!("births and exits by site, and parks, are estimated from {share:.1} % of the time{totals}")
        }
        Fidelity::Census => format!("births and exits by site, and parks, are not counted{totals}"),
    };
    let option = match process.governed.cost_of_all {
        Some(all) if all <= 1.0 => {
            format!(": counting all costs it {:.1} %, which --budget {:.0} allows", all * 100.0, (all * 140.0).ceil())
        }
        Some(all) => format!(": counting all costs it {:.0} %, with --budget off", all * 100.0),
        None => String::new(),
    };
    Some(format!("{what}{option}"))
}

/// The mark of numbers that are estimates or lower bounds.
const fn approximately(exact: bool) -> &'static str {
    if exact { "" } else { "~" }
}

fn render_process(
    text: &mut String,
    process: &ProcessSnapshot,
    earlier: Option<(&ProcessSnapshot, f64)>,
    rows: usize,
    options: TableOptions,
) {
    let name = Path::new(&process.exe).file_name().map_or_else(|| process.exe.clone(), |n| n.to_string_lossy().into());
    let _ = writeln!(
        text,
        "{name}  pid {}  {}{}{}{}",
        process.pid,
        process.go_version,
        governed(process),
        if process.layout_is_older { " (newer than parkranger; layout proved by its memory)" } else { "" },
        match (process.ended, process.stopped) {
            (true, _) => "  ended",
            (false, true) => "  stopped (SIGSTOP, or a debugger)",
            (false, false) => "",
        }
    );
    if let Some(given_up) = given_up(process) {
        let _ = writeln!(text, "{given_up}");
    }
    let lives = approximately(process.missing.has_all_lives());
    let totals = approximately(process.missing.has_all_lives() || process.totals_are_exact);
    let split = approximately(process.split_age.is_none());
    let parks = approximately(process.missing.has_all_parks());
    let rate = |now: u64, then: fn(&ProcessSnapshot) -> u64| {
        earlier.map_or_else(String::new, |(before, seconds)| {
            format!(" ({}/s)", per_second(now.saturating_sub(then(before)), seconds))
        })
    };
    let _ = writeln!(
        text,
        "goroutines {} (user {}, system {}){}  births {totals}{}{}  exits {totals}{}{}  parks {parks}{}{}{}{}",
        process.live(),
        process.user,
        process.system,
        if process.baseline { drift(process) } else { " so far".into() },
        process.births,
        rate(process.births, |p| p.births),
        process.exits,
        rate(process.exits, |p| p.exits),
        process.parks,
        rate(process.parks, |p| p.parks),
        process
            .losses
            .iter()
            .filter(|(_, count)| **count > 0)
            .fold(String::new(), |text, (name, count)| format!("{text}  LOST {name} {count}{}", way_out(name))),
        census_age(process),
    );
    if let Some(story) = &process.story {
        story::render(text, story);
    }
    let before: HashMap<SiteKey<'_>, &SiteSnapshot> = earlier
        .map(|(process, _)| process.sites.iter().map(|site| (site_key(site), site)).collect())
        .unwrap_or_default();
    let mut sites: Vec<&SiteSnapshot> = process.sites.iter().collect();
    sites.sort_by(|a, b| options.sort.key(b).cmp(&options.sort.key(a)).then_with(|| site_key(a).cmp(&site_key(b))));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let head = ["LIVE", "BIRTHS", "/s", "EXITS", "/s", "PARKS", "/s", "WAITS FOR", "CREATED AT", "STARTS"];
    table.set_header(head);
    for site in sites.iter().take(rows) {
        let before = before.get(&site_key(site)).copied();
        let rate = |now: u64, then: Option<u64>| {
            earlier.map_or_else(String::new, |(_, seconds)| per_second(now.saturating_sub(then.unwrap_or(0)), seconds))
        };
        table.add_row([
            number(site.live, split),
            number(site.births, lives),
            Cell::new(rate(site.births, before.map(|b| b.births))).set_alignment(CellAlignment::Right),
            number(site.exits, lives),
            Cell::new(rate(site.exits, before.map(|b| b.exits))).set_alignment(CellAlignment::Right),
            number(site.parks, parks),
            Cell::new(rate(site.parks, before.map(|b| b.parks))).set_alignment(CellAlignment::Right),
            Cell::new(waits_for(site)),
            Cell::new(created_at(site)),
            Cell::new(&site.start_function),
        ]);
    }
    for column in table.column_iter_mut().take(7) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in table.lines() {
        let line = line.trim_end();
        match options.width {
            Some(width) => text.extend(line.chars().take(usize::from(width))),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    if rows < sites.len() {
        let more = sites.len() - rows;
        let live: i64 = sites.iter().skip(rows).map(|site| site.live).sum();
        let _ = writeln!(text, "… and {more} more site{} with {live} live", plural(more, "s"));
    }
    for site in sites.iter().take(options.stacks.min(rows)) {
        render_stack(text, site);
    }
    text.push('\n');
}

/// Writes the frames that all goroutines of a site were made in, then who had each of them made, where that is known, else the
/// stack of whoever was seen first, as such.
fn render_stack(text: &mut String, site: &SiteSnapshot) {
    let _ = writeln!(text, "\n{} goroutines of {} were created by", site.live, site.start_function);
    let own = site.own_frames();
    if own.is_empty() {
        let _ = writeln!(text, "    {}", created_at(site));
    }
    let frame = |text: &mut String, frame: &Frame| {
        let _ = writeln!(text, "    {}\n        {}:{}", frame.function, frame.file, frame.line);
    };
    own.iter().for_each(|own| frame(text, own));
    if !site.callers.is_empty() {
        return render_callers(text, site);
    }
    let rest = site.creation_stack.get(own.len()..).unwrap_or_default();
    if !rest.is_empty() {
        let _ = writeln!(
            text,
            "  first seen with this stack (others may have called it since: --callers tells them apart)"
        );
    } else if own.is_empty() {
        let _ = writeln!(text, "  (no stack of it was seen since the attach)");
    }
    rest.iter().for_each(|rest| frame(text, rest));
}

fn render_callers(text: &mut String, site: &SiteSnapshot) {
    let _ = writeln!(text, "  called by");
    let line = |text: &mut String, (births, exits, live): (u64, u64, i64), name: &str| {
        let _ = writeln!(text, "    {live:>8} live {births:>8} births {exits:>8} exits  {name}");
    };
    for caller in &site.callers {
        let live = i64::try_from(caller.live()).unwrap_or(i64::MAX);
        let name = caller.frames.first().map_or_else(
            || "(nobody, or not known)".to_owned(),
            |frame| format!("{} {}:{}", frame.function, frame.file, frame.line),
        );
        line(text, (caller.births, caller.exits, live), &name);
    }
    let rest = site.without_caller();
    if rest != (0, 0, 0) {
        line(text, rest, "(from before)");
    }
}

type SiteKey<'a> = (&'a str, &'a str, u32, &'a str);

fn site_key(site: &SiteSnapshot) -> SiteKey<'_> {
    (&site.function, &site.file, site.line, &site.start_function)
}

fn process_key(process: &ProcessSnapshot, sort: Sort) -> (bool, i64) {
    let of = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let count = match sort {
        Sort::Live => process.live(),
        Sort::Births => of(process.births),
        Sort::Exits => of(process.exits),
        Sort::Parks => of(process.parks),
    };
    (!process.ended, count)
}

fn number(value: impl std::fmt::Display, mark: &str) -> Cell {
    Cell::new(format!("{mark}{value}")).set_alignment(CellAlignment::Right)
}

fn per_second(count: u64, seconds: f64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
    let rate = count as f64 / seconds;
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Age of the census that says what goroutines wait for now, and how the live ones are split up where they are not counted.
fn census_age(process: &ProcessSnapshot) -> String {
    let seconds = |age: std::time::Duration| format!("{} s ago", age.as_secs());
    match (process.split_age, process.doing_age) {
        (Some(age), _) => format!("  sites and waits as {}", seconds(age)),
        (None, Some(age)) => format!("  waits as {}", seconds(age)),
        (None, None) => String::new(),
    }
}

/// States of a site's goroutines now, and the longest wait among them from a minute on; the reasons of their parks where no census
/// has told.
fn waits_for(site: &SiteSnapshot) -> String {
    if site.doing.is_empty() {
        let parked = most_frequent(&site.waits);
        return if parked.is_empty() { parked } else { format!("(parks) {parked}") };
    }
    let doing = most_frequent(&site.doing);
    match site.waited_longest.map_or(0, |longest| longest.as_secs() / 60) {
        0 => doing,
        minutes if minutes < 120 => format!("{doing}, up to {minutes}m"),
        minutes => format!("{doing}, up to {}h", minutes / 60),
    }
}

/// The reasons that most of them have, with their shares.
fn most_frequent(waits: &std::collections::BTreeMap<String, u64>) -> String {
    const SHOWN: usize = 2;
    let total: u64 = waits.values().sum();
    let mut waits: Vec<(&String, &u64)> = waits.iter().collect();
    waits.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    if let [(only, _)] = waits.as_slice() {
        return (*only).clone();
    }
    let share = |parks: u64| match parks * 100 / total.max(1) {
        0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    };
    let shown: Vec<String> =
        waits.iter().take(SHOWN).map(|(reason, parks)| format!("{reason} {}", share(**parks))).collect();
    shown.join(", ")
}

/// `main.handler server.go:42`
fn created_at(site: &SiteSnapshot) -> String {
    let file = Path::new(&site.file).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if file.is_empty() { site.function.clone() } else { format!("{} {file}:{}", site.function, site.line) }
}

const fn plural(count: usize, ending: &'static str) -> &'static str {
    if count == 1 { "" } else { ending }
}

#[cfg(test)]
mod tests {
    use parkranger_common::loss::{HostLoss, ProcessLoss};

    use super::*;

    #[test]
    fn what_has_a_bound_names_it() {
        let of = |names: &[&'static str]| names.iter().filter(|name| !way_out(name).is_empty()).count();
        let process: Vec<_> = ProcessLoss::ALL.iter().map(|loss| loss.name()).collect();
        let host: Vec<_> = HostLoss::ALL.iter().map(|loss| loss.name()).collect();
        assert_eq!((of(&process), of(&host)), (2, 1));
        assert!(way_out(ProcessLoss::SiteMapFull.name()).contains("--max-sites"));
    }
}
