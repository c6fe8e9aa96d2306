//! Which functions are taken, what is read at them, and every reason to refuse.

use super::*;

fn go_1_27() -> Made {
    Made::real("1.27.3", Architecture::Amd64, "plain")
}

fn functions(plan: &Plan, event: Event) -> Vec<&str> {
    plan.points.iter().filter(|point| point.event == event).map(|point| point.function.as_str()).collect()
}

#[test]
fn a_plan_says_what_to_read() {
    let plan = Plan::of(&go_1_27()).expect("a plan");
    let [birth, park, exit] = plan.points.as_slice() else { unreachable!("three points, not {plan:?}") };
    assert_eq!((birth.goroutine, birth.wait_reason), (GoroutineSource::NotYet, None));
    assert_eq!((park.goroutine, park.wait_reason), (GoroutineSource::CurrentG, Some(WaitReasonSource::ThirdArgument)));
    assert_eq!((exit.goroutine, exit.wait_reason), (GoroutineSource::FirstArgument, None));
    assert!(plan.points.iter().all(|point| point.instruction == "push %rbp"));
    assert_eq!(birth.offset, FileOffset(birth.address.0 & 0xf_ffff));
}

#[test]
fn parks_move_to_park_m_when_gopark_is_inlined() {
    let image = go_1_27().inlined("runtime.gopark", &["runtime.chansend", "runtime.chanrecv", "runtime.chanrecv"]);
    let plan = Plan::of(&image).expect("a plan");
    assert_eq!(functions(&plan, Event::Park), ["runtime.park_m"]);
    let park = &plan.points[1];
    assert_eq!(park.goroutine, GoroutineSource::FirstArgument);
    assert_eq!(park.wait_reason, Some(WaitReasonSource::FieldOfG));
    assert_eq!(
        plan.notes,
        ["runtime.gopark is inlined in runtime.chanrecv, runtime.chansend: parks are counted at runtime.park_m"]
    );
}

#[test]
fn parks_move_to_park_m_when_gopark_has_no_usable_instruction() {
    let plan = Plan::of(&go_1_27().starting("runtime.gopark", &[0x90; 32])).expect("a plan");
    assert_eq!(functions(&plan, Event::Park), ["runtime.park_m"]);
    assert!(plan.notes[0].starts_with("runtime.gopark has no instruction that can be probed exactly: `nop`"));
}

#[test]
fn no_gopark_and_no_park_m() {
    let plan = Plan::of(&go_1_27().without("runtime.gopark")).expect("a plan");
    assert_eq!(functions(&plan, Event::Park), ["runtime.park_m"]);
    let refusal = Plan::of(&go_1_27().without("runtime.gopark").without("runtime.park_m")).expect_err("none");
    let names = vec!["runtime.park_m".to_owned(), "runtime.gopark".to_owned()];
    assert_eq!(refusal, Refusal::MissingFunction { event: Event::Park, names });
}

#[test]
fn an_inlined_newproc1_or_park_m_is_refused() {
    let refusal = Plan::of(&go_1_27().inlined("runtime.newproc1", &["runtime.newproc.func1"])).expect_err("inlined");
    assert_eq!(
        refusal.to_string(),
        "runtime.newproc1 is inlined in runtime.newproc.func1: its calls there cannot be seen; rebuild with -pgo=off"
    );
    let image = go_1_27().inlined("runtime.gopark", &["a"]).inlined("runtime.park_m", &["b"]);
    assert!(matches!(Plan::of(&image), Err(Refusal::Inlined { function, .. }) if function == "runtime.park_m"));
}

#[test]
fn names_in_a_sentence_are_bounded() {
    let names: Vec<String> = (0..1000).map(|number| format!("f{number}")).collect();
    assert_eq!(join(&names, ", "), "f0, f1, f2, f3, 996 more");
}

#[test]
fn a_missing_newproc1_is_refused_and_its_wrapper_is_not_taken() {
    let mut image = go_1_27();
    for function in &mut image.functions {
        function.wrapper = function.name == "runtime.newproc1";
    }
    let refusal = Plan::of(&image).expect_err("only a wrapper");
    assert_eq!(
        refusal.to_string(),
        "cannot count each birth: the binary has no runtime.newproc1; \
         is it a Go program, and not obfuscated (garble -tiny removes the names)?"
    );
}

#[test]
fn the_body_is_taken_beside_its_wrapper() {
    let mut image = go_1_27().with("runtime.newproc1", 0x10, &[0x90; 16]);
    image.functions.last_mut().expect("one").wrapper = true;
    assert_eq!(Plan::of(&image), Plan::of(&go_1_27()));
}

#[test]
fn two_bodies_are_refused() {
    let image = go_1_27().with("runtime.newproc1", 0x10, &[0x90; 16]);
    assert!(matches!(Plan::of(&image), Err(Refusal::Ambiguous { function, .. }) if function == "runtime.newproc1"));
}

#[test]
fn the_same_body_named_twice_is_one() {
    let mut image = go_1_27();
    let again = image.functions.clone();
    image.functions.extend(again);
    image.functions.sort_by_key(|function| function.entry);
    assert_eq!(Plan::of(&image), Plan::of(&go_1_27()));
}

/// `goexit0` with its call of `gdestroy` (47 bytes in, always the first call) replaced by padding, as a copy would.
fn goexit0_without_call(image: Made) -> Made {
    let goexit0 = image.functions.iter().find(|function| function.name == "runtime.goexit0").expect("goexit0");
    let mut code = image.code[&goexit0.entry.0].clone();
    let call = code.iter().position(|byte| *byte == 0xe8).expect("a call");
    code[call..call + 5].copy_from_slice(&[0x90; 5]);
    image.starting("runtime.goexit0", &code)
}

#[test]
fn exits_are_shared_when_gdestroy_is_inlined_in_goexit0() {
    let image = goexit0_without_call(go_1_27()).inlined("runtime.gdestroy", &["runtime.goexit0"]);
    let plan = Plan::of(&image).expect("a plan");
    assert_eq!(functions(&plan, Event::Exit), ["runtime.gdestroy", "runtime.goexit0"]);
    assert!(plan.points.iter().skip(2).all(|point| point.goroutine == GoroutineSource::FirstArgument));
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn exits_would_count_twice_if_goexit0_also_called_gdestroy() {
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        let image = Made::real("1.27.3", architecture, "plain").inlined("runtime.gdestroy", &["runtime.goexit0"]);
        assert!(matches!(Plan::of(&image), Err(Refusal::Ambiguous { function, .. }) if function == "runtime.gdestroy"));
    }
}

#[test]
fn exits_are_goexit0s_alone_when_the_linker_removed_gdestroy() {
    let image = go_1_27().without("runtime.gdestroy").inlined("runtime.gdestroy", &["runtime.goexit0"]);
    assert_eq!(functions(&Plan::of(&image).expect("a plan"), Event::Exit), ["runtime.goexit0"]);
}

#[test]
fn exits_hidden_in_coroswitch_m_are_refused() {
    let into = ["runtime.goexit0", "runtime.coroswitch_m"];
    for image in [go_1_27(), go_1_27().without("runtime.gdestroy")] {
        let refusal = Plan::of(&image.inlined("runtime.gdestroy", &into)).expect_err("inlined");
        assert!(matches!(refusal, Refusal::Inlined { function, .. } if function == "runtime.gdestroy"));
    }
}

#[test]
fn code_outside_the_file_is_refused() {
    let mut image = go_1_27();
    image.in_file = false;
    assert!(matches!(Plan::of(&image), Err(Refusal::NotInFile { .. })));
    image.code.clear();
    assert_eq!(Plan::of(&image), Err(Refusal::Image("no such code".to_owned())));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for (end, size) in [(0x10, 0), (0x8, u64::MAX - 7), (0x11 + MAX_FUNCTION_BYTES, MAX_FUNCTION_BYTES + 1)] {
        let mut image = go_1_27().without("runtime.newproc1").with("runtime.newproc1", 0x10, &[0x90]);
        image.functions.last_mut().expect("one").end = VirtAddr(end);
        let refusal = Plan::of(&image).expect_err("no size");
        assert!(matches!(refusal, Refusal::NoUsableInstruction { why: Unusable::Size(it), .. } if it == size));
    }
}
