//! The rig: it takes itself down, whatever happens.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::needs_storage;
use crate::rig::{Setup, wait_until};

#[test]
fn the_rig_is_taken_down_after_a_panic() {
    needs_storage!();
    let dir = Mutex::new(PathBuf::new());
    let test = || {
        let rig = Setup::any().unprepared().stopped().start();
        *dir.lock().expect("lock") = rig.dir().to_owned();
        assert_eq!(rig.superblock(), "ro");
        // Not a panic!(): its message would look like a failure of this test.
        std::panic::resume_unwind(Box::new("on purpose"));
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
    assert!(result.is_err());
    let dir = dir.into_inner().expect("lock");
    let text = dir.to_str().expect("UTF-8");
    wait_until("everything is gone", || {
        !dir.exists()
            && !fs::read_to_string("/proc/self/mountinfo")
                .expect("mountinfo")
                .contains(text)
    });
}
