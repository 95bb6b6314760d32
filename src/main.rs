//! The program: arguments, log, runtime, exit code. It knows nothing of AMQP.
fn main() {}
