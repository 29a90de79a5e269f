//! `dial-engine`: `dial`, linked with libtorch. It lies beside `dial`, which goes on as this program when cells must be computed.

fn main() -> ! {
    refusal_dial::link_libtorch();
    refusal_dial::cli::main()
}
