use std::time::Duration;

use super::*;

const DUMP: &str = "goroutine 1 [running]:\nmain.main()\n\t/src/main.go:9 +0x1d\n\n\
goroutine 18 gp=0xc000 m=nil [chan send, 5 minutes, locked to thread]{endpoint: \"/a b\"}:\n\
runtime.gopark(0x1, {0x2, 0x3}, 0x4)\n\t/go/proc.go:402 +0xce fp=0x1 sp=0x2 pc=0x3\n\
main.Map[...].func1(...)\n\t/src/x:y.go:12\n\
created by main.(*Server).serve in goroutine 7\n\t/src/main.go:33 +0x99\n\n\
goroutine 19 [select (no cases)]:\nmain.f({0x1, 0x2})\n\t/src/main.go:4 +0x1\n...additional frames elided...\n\
created by main.main\n\t/src/main.go:5 +0x2\n[originating from goroutine 1]:\nmain.ghost(...)\n\t/src/g.go:1\n";

#[test]
fn a_dump_of_the_runtime() {
    let saved = read(DUMP.as_bytes()).unwrap();
    let population = &saved.population;
    assert!(saved.numbered && saved.has_creators);
    assert_eq!(population.len(), 3);
    let sender = &population.goroutines[1];
    let kind = population.kind(sender).unwrap();
    assert_eq!((sender.goid, sender.parent_goid, sender.waited), (18, 7, Some(Duration::from_secs(300))));
    assert_eq!((kind.state.as_str(), kind.start_function.as_str()), ("chan send", "main.Map[...].func1"));
    assert_eq!(kind.frames[1].file, "/src/x:y.go");
    assert_eq!((kind.frames[1].line, kind.created_by.as_ref().unwrap().line), (12, 33));
    assert_eq!(kind.created_by.as_ref().unwrap().function, "main.(*Server).serve");
    assert_eq!(kind.labels, [("endpoint".to_owned(), "/a b".to_owned())]);
    let last = population.kind(&population.goroutines[2]).unwrap();
    assert_eq!(last.frames.len(), 1, "ancestors are no frames: {last:?}");
}

#[test]
fn a_counted_profile() {
    let text = "goroutine profile: total 43\n42 @ 0x1 0x2\n# labels: {\"k\":\"v\"}\n#\t0x43\tmain.leak.func1+0x2c\t/src/x.go:12\n\
                #\t0x44\tmain.start+0x1\t/src/x.go:20\n\n1 @ 0x5\n#\t0x5\tmain.main+0x1\t/src/x.go:2\n";
    let saved = read(text.as_bytes()).unwrap();
    assert!(!saved.numbered && !saved.has_creators);
    assert_eq!(saved.population.len(), 43);
    let kind = &saved.population.kinds[0];
    assert_eq!((kind.frames[0].function.as_str(), kind.frames[0].line), ("main.leak.func1", 12));
    assert_eq!((kind.start_function.as_str(), kind.labels.len()), ("main.start", 1));
}

#[test]
fn what_is_no_dump_is_refused() {
    for bytes in [&b""[..], b"hello", b"{}", b"\x1f\x8b\x08garbage", b"\xff\xff\xff\xff"] {
        assert!(read(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn garbage_in_the_middle_is_passed_over() {
    for cut in 0..DUMP.len() {
        let text = format!("{}\u{0}]:{}", &DUMP[..cut], &DUMP[cut..]);
        if let Ok(saved) = read(text.as_bytes()) {
            assert!(saved.population.len() <= 4);
        }
    }
}

#[test]
fn our_own_json_has_the_stacks_of_other_forms() {
    let text = r#"{"schema":1,"sites":[{"function":"main.f","file":"/src/x.go","line":6,"start_function":"main.g","system":false}],
        "stacks":[{"complete":true,"frames":[{"function":"runtime.gopark","file":"p.go","line":1,"inlined":false,"pc":1},
        {"function":"main.g","file":"/src/x.go","line":2,"inlined":false,"pc":2},
        {"function":"main.f.gowrap1","file":"/src/x.go","line":6,"inlined":false,"pc":3},
        {"function":"runtime.goexit","file":"a.s","line":1,"inlined":false,"pc":4}]}],
        "goroutines":[{"goid":7,"state":"select","site":0,"parent":1,"waited_ns":5,"stack":0,"stack_bytes":2048}]}"#;
    let saved = read(text.as_bytes()).unwrap();
    let kind = &saved.population.kinds[0];
    assert_eq!(
        kind.frames.iter().map(|frame| frame.function.as_str()).collect::<Vec<_>>(),
        ["runtime.gopark", "main.g"]
    );
    assert_eq!((kind.start_function.as_str(), saved.numbered), ("main.g", true));
}
