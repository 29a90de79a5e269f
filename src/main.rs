//! Parse the arguments, do what they ask, end with the code that says how it went. This program is not linked with libtorch, so that it
//! starts at once; where cells must be computed it goes on as `dial-engine` (`engine.rs`).

fn main() -> ! {
    refusal_dial::cli::main()
}
