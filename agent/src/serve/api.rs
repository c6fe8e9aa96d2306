//! `/api/v1`: the JSON of the command line, with filters and in pages.

use std::{io, sync::Arc};

use axum::{
    Extension,
    extract::{Path, State as Extracted},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use clap::ValueEnum as _;
use globset::GlobMatcher;

use super::{
    guard::Peer,
    params::{Params, pid},
    problem::Problem,
    reading::{Read, Reply, answer, made, pass, read, whole},
    state::{State, process},
};
use crate::{
    census::Detail,
    dump::Dump,
    export::{self, Selection},
    snapshot::SiteSnapshot,
    views::{Sort, json},
};

const JSON: &str = "application/json";
/// Sites of a page, and at most.
const SITES: (usize, usize) = (100, 10_000);
/// Goroutines of a page, and at most.
const GOROUTINES: (usize, usize) = (1_000, 100_000);

/// `/api/v1/processes`
pub(super) async fn processes(Extracted(state): Extracted<Arc<State>>, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri, Some(&[]))?;
    let (snapshot, facts) = (state.snapshot()?, state.facts());
    written(move |out| json::write_processes(out, &snapshot, &facts)).await
}

/// `/api/v1/processes/{pid}/sites`
pub(super) async fn sites(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, Some(&["site", "system", "sort", "limit", "offset"]))?;
    let of = pid(&of)?;
    let filter = params.glob("site")?;
    let system = params.parsed("system")?.unwrap_or(true);
    let sort = params.one("sort")?.map_or(Ok(Sort::Live), |text| Sort::from_str(text, false));
    let sort = sort.map_err(|_| Problem::bad("sort: live, births, exits or parks"))?;
    let limit = params.limit(SITES.0, SITES.1)?;
    let offset = params.parsed("offset")?.unwrap_or(0);
    let snapshot = state.snapshot()?;
    process(&snapshot, of)?;
    written(move |out| {
        let Ok(process) = process(&snapshot, of) else { return Ok(()) };
        let wanted =
            |site: &&SiteSnapshot| (system || !site.system) && filter.as_ref().is_none_or(|glob| matches(site, glob));
        let mut sites: Vec<&SiteSnapshot> = process.sites.iter().filter(wanted).collect();
        sites.sort_by_key(|site| (std::cmp::Reverse(sort.key(site)), site.id));
        let total = sites.len();
        let page: Vec<&SiteSnapshot> = sites.into_iter().skip(offset).take(limit).collect();
        json::write_sites(out, snapshot.time, process, &page, (offset, total))
    })
    .await
}

fn matches(site: &SiteSnapshot, glob: &GlobMatcher) -> bool {
    export::matches_statement(glob, &site.function, &site.file, site.line) || glob.is_match(&site.start_function)
}

/// Has JSON written by a thread that may take its time.
async fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()> + Send + 'static) -> Result<Response, Problem> {
    let bytes = made(move || {
        let mut bytes = Vec::new();
        write(&mut bytes).map(|()| bytes)
    });
    let bytes = bytes.await?.map_err(|error| Problem::internal(format!("the answer failed: {error}")))?;
    Ok(whole(JSON, bytes))
}

/// `/api/v1/processes/{pid}/goroutines`
pub(super) async fn goroutines(
    Extracted(state): Extracted<Arc<State>>,
    Extension(peer): Extension<Peer>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, Some(&["label", "state", "site", "system", "limit", "from"]))?;
    let of = pid(&of)?;
    let selection = selection(&params)?;
    let page = Page { limit: params.limit(GOROUTINES.0, GOROUTINES.1)?, from: params.parsed("from")?.unwrap_or(0) };
    let pass = pass(&state, peer.client)?;
    let all = Detail { stacks: true, labels: true, waits: true };
    let read = read(&state, of, all).await?;
    let unknown = |why| Problem::new(StatusCode::NOT_FOUND, "state", why);
    selection.check_state(read.subject.wait_reasons()).map_err(unknown)?;
    answer(&state, pass, move |reply| page.write(&read, &selection, &uri, reply)).await
}

fn selection(params: &Params) -> Result<Selection, Problem> {
    let label = |text| Selection::label(text).ok_or_else(|| Problem::bad("label: KEY=VALUE"));
    Ok(Selection {
        labels: params.all("label").map(label).collect::<Result<_, _>>()?,
        state: params.one("state")?.map(str::to_owned),
        site: params.glob("site")?,
        system: params.parsed("system")?.unwrap_or(false),
    })
}

/// Some of the goroutines, in order of their goids: goroutines that come and go between two pages shift nothing.
struct Page {
    limit: usize,
    from: u64,
}

impl Page {
    fn write(&self, read: &Read, selection: &Selection, uri: &Uri, reply: Reply) -> io::Result<()> {
        read.dump(|mut dump| {
            dump.runtime_frames = selection.system;
            self.cut(&mut dump, selection);
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            if let Some(link) = dump.next.and_then(|next| link(uri, next)) {
                headers.insert(header::LINK, link);
            }
            let mut body = reply.begin(headers);
            export::json::write(&dump, &mut body)?;
            body.finish()
        })
    }

    fn cut(&self, dump: &mut Dump<'_>, selection: &Selection) {
        let goid = |index: &usize| dump.census.goroutines.get(*index).map_or(0, |goroutine| goroutine.goid);
        let mut selected = selection.of(dump);
        selected.retain(|index| goid(index) >= self.from);
        selected.sort_unstable_by_key(goid);
        let next = selected.get(self.limit).map(goid);
        selected.truncate(self.limit);
        (dump.selected, dump.next) = (selected, next);
    }
}

/// Where the next page is (RFC 8288).
fn link(uri: &Uri, next: u64) -> Option<HeaderValue> {
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    parameters.extend_pairs(form_urlencoded::parse(query).filter(|(name, _)| name != "from"));
    parameters.append_pair("from", &next.to_string());
    format!("<{}?{}>; rel=\"next\"", uri.path(), parameters.finish()).parse().ok()
}
