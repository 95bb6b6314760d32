//! The program `conformance`; all it does is in the library.

fn main() {
    std::process::exit(conformance::cli::main());
}
