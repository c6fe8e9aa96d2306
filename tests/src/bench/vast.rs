//! A Go program as large as the largest in production: generated packages with thousands of types and methods each.

use std::fmt::Write as _;

/// Types in a package, each with a method that uses `fmt`, `sort` and `strings`.
const TYPES: usize = 1000;
/// Packages for a little more than 100 MB with debug information.
pub const PACKAGES: usize = 33;

/// The files of the program, by their paths. It blocks a thousand goroutines, and answers each line with how many
/// goroutines its runtime counts.
pub fn sources(packages: usize) -> Vec<(String, String)> {
    let mut main = String::from("package main\n\nimport (\n\t\"bufio\"\n\t\"fmt\"\n\t\"os\"\n\t\"runtime\"\n");
    for package in 0..packages {
        let _ = writeln!(main, "\t\"vast/p{package}\"");
    }
    main.push_str(")\n\nvar all = []func(int) string{\n");
    for package in 0..packages {
        let _ = writeln!(main, "\tp{package}.All,");
    }
    main.push_str(
        "}\n\nfunc main() {\n\tblock := make(chan int)\n\tfor i := 0; i < 1000; i++ {\n\t\tgo func() { <-block }()\n\t}\n\
         \tlines := bufio.NewScanner(os.Stdin)\n\tfor lines.Scan() {\n\t\tfmt.Println(runtime.NumGoroutine())\n\t}\n\
         \tif len(os.Args) > 1 {\n\t\tfor _, f := range all {\n\t\t\tfmt.Println(f(len(os.Args)))\n\t\t}\n\t}\n}\n",
    );
    let mut files = vec![("go.mod".into(), "module vast\n\ngo 1.19\n".into()), ("main.go".into(), main)];
    files.extend((0..packages).map(|package| (format!("p{package}/p.go"), source(package))));
    files
}

fn source(package: usize) -> String {
    let mut text = format!("package p{package}\n\nimport (\n\t\"fmt\"\n\t\"sort\"\n\t\"strings\"\n)\n");
    for number in 0..TYPES {
        let least = number % 7;
        let _ = write!(
            text,
            "
type T{number} struct {{
	name string
	list []int
	next map[string]*T{number}
}}

func (t *T{number}) Walk(n int) (string, error) {{
	if n < {least} {{
		return \"\", fmt.Errorf(\"too few: %d of %s\", n, t.name)
	}}
	parts := strings.Split(t.name, \"{number}\")
	sort.Slice(parts, func(i, j int) bool {{ return parts[i]+\"{package}\" < parts[j] }})
	for key, next := range t.next {{
		if s, err := next.Walk(n - 1); err == nil {{
			parts = append(parts, fmt.Sprint(key, s, t.list[n%len(t.list)]))
		}}
	}}
	return strings.Join(parts, \",\"), nil
}}
"
        );
    }
    text.push_str("\nfunc All(n int) string {\n\ts := \"\"\n");
    for number in 0..TYPES {
        let _ = write!(text, "\tif v, err := (&T{number}{{name: s}}).Walk(n); err == nil {{\n\t\ts += v\n\t}}\n");
    }
    text.push_str("\treturn s\n}\n");
    text
}
