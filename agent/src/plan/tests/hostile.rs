//! Bytes no compiler made: each is refused for the right reason, and none makes the plan panic or loop.

use super::*;

const ENTRY: u64 = 0x40_1000;

/// A small function in the compiler's form: `prologue; jbe tail; push %rbp; inside; ret; tail: call …; jmp entry`.
fn amd64(prologue: &[u8], inside: &[u8]) -> Result<Choice, Unusable> {
    let mut bytes = prologue.to_vec();
    bytes.push(0x76);
    bytes.push(u8::try_from(2 + inside.len()).expect("short"));
    bytes.push(0x55);
    bytes.extend(inside);
    bytes.push(0xc3);
    // call far ahead; jmp entry
    bytes.extend([0xe8, 0, 0, 1, 0, 0xe9]);
    let back = -i32::try_from(bytes.len() + 4).expect("short");
    bytes.extend(back.to_le_bytes());
    amd64::choose(&Body { entry: ENTRY, bytes })
}

const CHECK: [u8; 4] = [0x49, 0x3b, 0x66, 0x10];

fn arm64(words: &[u32]) -> Result<Choice, Unusable> {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    arm64::choose(&Body { entry: ENTRY, bytes })
}

/// `ldr; cmp; b.ls +4 words; inside; ret; mov x3,x30; bl; b entry`.
const ARM64: [u32; 8] =
    [0xf940_0b90, 0xeb30_63ff, 0x5400_0069, 0xd503_201f, 0xd65f_03c0, 0xaa1e_03e3, 0x9400_1000, 0x17ff_fff9];

#[test]
fn the_well_formed_ones_are_taken() {
    let choice = amd64(&CHECK, &[]).expect("a choice");
    assert_eq!((choice.address, choice.instruction.as_str()), (ENTRY + 6, "push %rbp"));
    let choice = arm64(&ARM64).expect("a choice");
    assert_eq!((choice.address, choice.instruction.as_str()), (ENTRY + 8, "b.ls 0x401014"));
}

#[test]
fn a_jump_into_the_prologue() {
    // jmp to the push, to the jbe, to the cmp.
    for (displacement, to) in [(0xfd_u8, 6), (0xfb, 4), (0xf7, 0)] {
        let refusal = amd64(&CHECK, &[0xeb, displacement]).expect_err("it fires twice");
        let (from, to) = (VirtAddr(ENTRY + 7), VirtAddr(ENTRY + to));
        assert_eq!(refusal, Unusable::JumpIntoPrologue { from, to });
    }
    // A conditional one counts as well.
    assert!(matches!(amd64(&CHECK, &[0x74, 0xf8]), Err(Unusable::JumpIntoPrologue { .. })));
    // b to the b.ls; cbz to the entry.
    for word in [0x17ff_ffff, 0xb4ff_ffa0] {
        let mut words = ARM64;
        words[3] = word;
        assert!(matches!(arm64(&words), Err(Unusable::JumpIntoPrologue { .. })));
    }
}

#[test]
fn a_function_may_call_itself() {
    assert!(amd64(&CHECK, &[0xe8, 0xf4, 0xff, 0xff, 0xff]).is_ok());
    let mut words = ARM64;
    words[3] = 0x97ff_fffd;
    assert!(arm64(&words).is_ok());
}

#[test]
fn a_loop_to_an_unchecked_entry() {
    // push %rbp; jmp entry
    let body = Body { entry: ENTRY, bytes: vec![0x55, 0xeb, 0xfd] };
    assert!(matches!(amd64::choose(&body), Err(Unusable::JumpIntoPrologue { .. })));
    let body = Body { entry: ENTRY, bytes: vec![0x55, 0x5d, 0xc3] };
    assert_eq!(amd64::choose(&body).expect("a choice").address, ENTRY);
}

#[test]
fn an_argument_overwritten() {
    for (bytes, text) in [
        (&[0x31, 0xc0][..], "xor %eax,%eax"),
        (&[0x48, 0x8d, 0x84, 0x24, 0, 0xf0, 0xff, 0xff], "lea -0x1000(%rsp),%rax"),
        (&[0xb1, 0x01], "mov $0x1,%cl"),
        (&[0x4d, 0x89, 0xe6], "mov %r12,%r14"),
    ] {
        let refusal = amd64(&[bytes, &CHECK].concat(), &[]).expect_err("overwritten");
        let expected = Unusable::ArgumentOverwritten { address: VirtAddr(ENTRY), instruction: text.to_owned() };
        assert_eq!(refusal, expected);
    }
    // mov x0,x1; ldr x28,[x28,#16]; add x2,x2,#1
    for word in [0xaa01_03e0, 0xf940_0b9c, 0x9100_0442] {
        let mut words = vec![word];
        words.extend(ARM64);
        assert!(matches!(arm64(&words), Err(Unusable::ArgumentOverwritten { .. })), "{:?}", arm64(&words));
    }
}

#[test]
fn a_branch_that_does_not_lead_to_morestack() {
    let not_morestack = |bytes: &[u8]| {
        let body = Body { entry: ENTRY, bytes: [&CHECK, bytes].concat() };
        let refusal = amd64::choose(&body).expect_err("no morestack");
        assert!(matches!(refusal, Unusable::NotMorestack(_)), "{refusal:?}");
    };
    not_morestack(&[0x76, 0xfe, 0x55, 0xc3]); // to itself
    not_morestack(&[0x76, 0xfa, 0x55, 0xc3]); // to the entry
    not_morestack(&[0x76, 0x00, 0x55, 0xc3]); // to the next
    not_morestack(&[0x76, 0x7f, 0x55, 0xc3]); // out of the function
    not_morestack(&[0x76, 0x02, 0x55, 0xc3, 0xeb, 0xf4]); // jumps back without a call
    for (index, word) in [(2, 0x5400_0009), (2, 0x5400_0809), (5, 0xd503_201f), (6, 0x97ff_fffe), (7, 0xd65f_03c0)] {
        let mut words = ARM64;
        words[index] = word;
        let refusal = arm64(&words).expect_err("no morestack");
        assert!(matches!(refusal, Unusable::NotMorestack(_)), "{index} {refusal:?}");
    }
}

#[test]
fn a_tail_inside_another_instruction() {
    // jbe into the immediate of a mov, whose bytes read as `call; jmp entry`.
    let mut bytes = [&CHECK[..], &[0x76, 0x03, 0x55, 0x48, 0xb8]].concat();
    bytes.extend([0xe8, 0, 0, 1, 0, 0xeb, 0xf0, 0x90, 0xc3]);
    let body = Body { entry: ENTRY, bytes };
    assert_eq!(amd64::choose(&body), Err(Unusable::NotMorestack(VirtAddr(ENTRY + 9))));
}

#[test]
fn prefixes_that_the_kernel_would_not_emulate() {
    for branch in [&[0x66, 0x76, 0x0b][..], &[0x3e, 0x76, 0x0b], &[0x66, 0x0f, 0x86, 0x0b, 0, 0, 0]] {
        let body = Body { entry: ENTRY, bytes: [&CHECK, branch, &[0x90; 32]].concat() };
        assert!(matches!(amd64::choose(&body), Err(Unusable::UnknownPrologue { .. })));
    }
}

#[test]
fn nothing_but_nops_or_nothing_at_all() {
    for bytes in [vec![0x90; 4096], vec![0xcc; 64], vec![0x0f, 0x1f, 0x40, 0x00]] {
        let refusal = amd64::choose(&Body { entry: ENTRY, bytes }).expect_err("no prologue");
        assert!(matches!(refusal, Unusable::UnknownPrologue { .. }));
    }
    assert!(matches!(arm64(&[0xd503_201f; 1024]), Err(Unusable::UnknownPrologue { .. })));
    assert!(matches!(arm64(&[0xffff_ffff; 8]), Err(Unusable::NotCode(VirtAddr(ENTRY)))));
    let empty = || Body { entry: ENTRY, bytes: Vec::new() };
    assert!(matches!(amd64::choose(&empty()), Err(Unusable::CutOff(_))));
    assert!(matches!(arm64::choose(&empty()), Err(Unusable::CutOff(_))));
    assert!(matches!(amd64::choose(&Body { entry: ENTRY, bytes: vec![0x06; 32] }), Err(Unusable::NotCode(_))));
}

/// The tail is the last code, so a function cut anywhere before its padding and constants has none.
#[test]
fn real_functions_cut_anywhere() {
    for function in RealFunction::all().iter().filter(|function| function.name != "main.unchecked") {
        let whole = function.bytes.len();
        // Frames over 4 KiB make arm64 put constants behind the code; a jump's last bytes may be zeros, as padding is.
        let constants = if function.name.contains("uge") { 16 } else { 0 };
        let padding = function.bytes.iter().rev().take_while(|byte| [0, 0xcc].contains(*byte)).count();
        for length in 0..whole.saturating_sub(padding + constants + 4) {
            let body = Body { entry: function.entry, bytes: function.bytes[..length].to_vec() };
            let found = choose(function.architecture, &body);
            let label = format!("{} {:?} {}", function.version, function.architecture, function.name);
            assert!(found.is_err(), "{label} cut at {length} of {whole}: {found:?}");
        }
    }
}

#[test]
fn constants_behind_the_tail_are_not_code() {
    // `b` back to the `b.ls`, where no branch leads; then the same, reached by the instruction behind the check.
    let mut words = ARM64.to_vec();
    words.push(0x17ff_fffa);
    assert!(arm64(&words).is_ok());
    words[3] = 0x1400_0005;
    assert!(matches!(arm64(&words), Err(Unusable::JumpIntoPrologue { .. })));
}

/// Marsaglia's xorshift: the same sequence on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % bound
    }
}

/// Whatever the bytes, a choice is one of the emulated instructions, near the entry.
fn check(architecture: Architecture, body: &Body) {
    let Ok(choice) = choose(architecture, body) else { return };
    let at = usize::try_from(choice.address - body.entry).expect("inside");
    let fits = match (architecture, &body.bytes[at..]) {
        (Architecture::Amd64, [0x55, ..]) => !choice.skip_when_branch_taken,
        (Architecture::Amd64, [0x76, ..] | [0x0f, 0x86, ..]) => choice.skip_when_branch_taken,
        (Architecture::Arm64, [low, _, _, 0x54, ..]) => low & 0x1f == 9 && choice.skip_when_branch_taken,
        _ => false,
    };
    assert!(fits && at <= 32, "{choice:?} in {:02x?}", body.bytes);
}

#[test]
fn random_bytes() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..100_000 {
        let length = random.below(200);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[3]).collect();
        // Some get past the first instructions.
        let start: &[u8] = match round % 4 {
            0 => &CHECK,
            1 => &[0x90, 0x0b, 0x40, 0xf9, 0xff, 0x63, 0x30, 0xeb],
            _ => &[],
        };
        bytes.splice(..start.len().min(length), start.iter().copied());
        let entry = if round % 16 == 0 { u64::MAX - 100 } else { ENTRY };
        let body = Body { entry: entry & !3, bytes };
        check(Architecture::Amd64, &body);
        check(Architecture::Arm64, &body);
    }
}

#[test]
fn real_functions_with_some_bytes_changed() {
    let functions = RealFunction::all();
    let mut random = Random(0xfeed_5eed_0000_0001);
    for _ in 0..20_000 {
        let function = &functions[random.below(functions.len())];
        let mut body = function.body();
        for _ in 0..=random.below(4) {
            let range = if random.below(2) == 0 { 40 } else { body.bytes.len() };
            let at = random.below(range.min(body.bytes.len()));
            body.bytes[at] = random.next().to_le_bytes()[5];
        }
        check(function.architecture, &body);
    }
}
