use super::*;
use crate::saved::read;

fn dump(goroutines: &[(u64, &str, u32)]) -> Saved {
    let mut text = String::new();
    for (goid, state, line) in goroutines {
        text.push_str(&format!(
            "goroutine {goid} [{state}]:\nmain.f()\n\t/src/x.go:{line} +0x1\ncreated by main.start\n\t/src/x.go:7 +0x2\n\n"
        ));
    }
    read(text.as_bytes()).unwrap()
}

#[test]
fn who_came_went_and_stayed_without_moving() {
    let before = dump(&[(1, "chan send", 3), (2, "chan send", 3), (3, "select", 4), (4, "sleep", 5)]);
    let after = dump(&[(1, "chan send, 3 minutes", 3), (2, "chan send", 9), (3, "sleep", 4), (9, "chan send", 3)]);
    let difference = compare(Some(&before), &after);
    assert_eq!(difference.only_counts, None);
    let [row] = &difference.rows[..] else { panic!("{difference:#?}") };
    assert_eq!((row.before, row.after), (4, 4));
    assert_eq!(row.moves, Some(Moves { came: 1, went: 1, stayed: 3, unmoved: 1 }));
    assert_eq!(row.states["chan send"], (2, 3));
    assert_eq!(row.waited.unwrap().0, Duration::from_secs(180));
}

#[test]
fn counts_alone_are_compared_where_there_is_no_more() {
    let counted = read(b"goroutine profile: total 7\n7 @ 0x1\n#\t0x1\tmain.f+0x2\t/src/x.go:3\n").unwrap();
    let difference = compare(Some(&dump(&[(1, "chan send", 3)])), &counted);
    assert!(difference.only_counts.is_some() && difference.only_starts.is_some());
    let [row] = &difference.rows[..] else { panic!("{difference:#?}") };
    assert_eq!((row.before, row.after, row.moves), (1, 7, None));
    assert_eq!(&*row.site.start_function, "main.f");
}

#[test]
fn goroutines_of_another_process_are_not_taken_for_the_same() {
    let before = dump(&[(1, "select", 3), (2, "select", 3)]);
    let other = read(
        b"goroutine 1 [select]:\nmain.g()\n\t/src/y.go:1 +0x1\ncreated by main.h\n\t/src/y.go:2 +0x1\n\n\
          goroutine 2 [select]:\nmain.g()\n\t/src/y.go:1 +0x1\ncreated by main.h\n\t/src/y.go:2 +0x1\n",
    );
    assert!(compare(Some(&before), &other.unwrap()).only_counts.is_some());
}
