//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails: far more than anything
/// here needs, so that a slow machine does not fail it.
pub const BOUND: Duration = Duration::from_secs(20);

/// How long what the kernel tells of may take: far less than the timers that
/// stand in for the kernel's word take to come round.
pub const PROMPT: Duration = Duration::from_millis(1500);

/// Waits until the condition holds; fails with `what` after [`PROMPT`].
#[track_caller]
pub fn promptly(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(PROMPT, condition),
        "not within {PROMPT:?}: {what}"
    );
}

/// Waits until the condition holds; fails with `what` after [`BOUND`].
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(BOUND, condition),
        "not within {BOUND:?}: {what}"
    );
}

/// Whether the condition holds at some time within the bound; PST_TEST_SLOWNESS times as much on an
/// emulated processor.
pub fn holds_within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let slowness = std::env::var("PST_TEST_SLOWNESS").ok();
    let slowness = slowness.map_or(1, |times| times.parse().expect("PST_TEST_SLOWNESS"));
    let deadline = Instant::now() + bound * slowness;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
