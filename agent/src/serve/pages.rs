//! The pages for people: what there is, and where. Plain HTML without scripts.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::{Path, State as Extracted},
    response::Response,
};

use super::{
    params::pid,
    problem::Problem,
    reading::whole,
    state::{State, process},
};
use crate::{export::schema::rfc3339, snapshot::ProcessSnapshot};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "body{font:15px system-ui,sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse}\
    th,td{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}td.n{text-align:right}code{background:#f4f4f4}";

/// Text as HTML: paths and names are up to the processes.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

fn page(title: &str, body: &str) -> Response {
    let title = Escaped(title);
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}</body></html>\n"
    );
    whole(HTML, html)
}

/// `/`
pub(super) async fn index(Extracted(state): Extracted<Arc<State>>) -> Result<Response, Problem> {
    let mut body = String::new();
    match state.latest() {
        None => body.push_str("<p>Still starting.</p>\n"),
        Some(snapshot) => {
            let count = snapshot.processes.len();
            let _ = writeln!(
                body,
                "<p>{count} Go process{} watched, as of {}.</p>",
                if count == 1 { "" } else { "es" },
                rfc3339(snapshot.time)
            );
            if snapshot.refused > 0 {
                let _ = writeln!(
                    body,
                    "<p>{} more cannot be watched: <code>parkranger ps</code> says why.</p>",
                    snapshot.refused
                );
            }
            for (why, count) in &snapshot.not_looked_at {
                let _ = writeln!(
                    body,
                    "<p>{count} process{} not looked at: {}</p>",
                    if *count == 1 { "" } else { "es" },
                    Escaped(why)
                );
            }
            body.push_str(
                "<table>\n<tr><th>pid</th><th>executable</th><th>Go</th><th>goroutines</th><th>births</th><th>exits</th>\
                 <th>parks</th><th></th></tr>\n",
            );
            for process in snapshot.processes.iter().filter(|process| !process.brief) {
                row(&mut body, process);
            }
            body.push_str("</table>\n");
        }
    }
    body.push_str(
        "<p><a href=\"/metrics\">metrics</a> for Prometheus, <a href=\"/api/v1/processes\">processes as JSON</a>, \
         <a href=\"/openapi.json\">description of the API</a></p>\n",
    );
    Ok(page("parkranger", &body))
}

fn row(body: &mut String, process: &ProcessSnapshot) {
    let ProcessSnapshot { pid, births, exits, parks, .. } = process;
    let ended = if process.ended { " (ended)" } else { "" };
    let _ = writeln!(
        body,
        "<tr><td class=n>{pid}</td><td>{}{ended}</td><td>{}</td><td class=n>{}</td><td class=n>{births}</td>\
         <td class=n>{exits}</td><td class=n>{parks}</td><td><a href=\"/pids/{pid}/debug/pprof/\">profiles</a> \
         <a href=\"/api/v1/processes/{pid}/sites\">sites</a></td></tr>",
        Escaped(&process.exe),
        Escaped(&process.go_version),
        process.live(),
    );
}

/// What `/pids/{pid}/debug/pprof/` lists: path, and what it is.
const PROFILES: [(&str, &str); 7] = [
    ("goroutine", "stacks of all goroutines, for go tool pprof"),
    ("goroutine?debug=1", "the same as text, equal stacks counted"),
    ("goroutine?debug=2", "every goroutine, as an unrecovered panic prints it"),
    ("goroutine?seconds=10", "what came and went within 10 seconds"),
    ("births", "goroutines created, ended and live, by creation site"),
    ("births?seconds=10", "the same within 10 seconds"),
    ("parks", "parks by creation site and wait reason"),
];

/// `/pids/{pid}/debug/pprof/`
pub(super) async fn profiles(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
) -> Result<Response, Problem> {
    let snapshot = state.snapshot()?;
    let process = process(&snapshot, pid(&of)?)?;
    let mut body = format!("<p>{}, {}</p>\n<table>\n", Escaped(&process.exe), Escaped(&process.go_version));
    for (path, what) in PROFILES {
        let _ = writeln!(body, "<tr><td><a href=\"{path}\">{path}</a></td><td>{what}</td></tr>");
    }
    let pid = process.pid;
    let _ = write!(
        body,
        "</table>\n<p><a href=\"/api/v1/processes/{pid}/sites\">creation sites</a> and \
         <a href=\"/api/v1/processes/{pid}/goroutines\">goroutines</a> as JSON, <a href=\"/\">all processes</a></p>\n"
    );
    Ok(page(&format!("process {pid}"), &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text() {
        assert_eq!(Escaped("<a href='x'>&\"").to_string(), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
