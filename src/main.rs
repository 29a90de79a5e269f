//! Parse the arguments, do what they ask, end with the code that says how it went.

fn main() -> ! {
    refusal_dial::cli::main()
}
