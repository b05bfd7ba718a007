//! Interactive programs on a real terminal.

use crate::rig::{Rig, Terminal, wait_until};
use crate::{needs_storage, needs_tool};

fn pstrun(rig: &Rig) -> String {
    rig.bin("kvmd-pstrun").display().to_string()
}

#[test]
fn p7_an_editor_works_on_the_terminal() {
    needs_storage!();
    needs_tool!("nano", "tmux");
    let rig = Rig::any();
    let terminal = Terminal::new(&rig);
    let file = rig.data().join("notes");
    let rc = rig.dir().join("nanorc");
    std::fs::write(&rc, "bind ^Z suspend main\n").expect("nanorc");
    terminal.line(&format!(
        "{} -- nano --rcfile={} {}",
        pstrun(&rig),
        rc.display(),
        file.display()
    ));
    terminal.await_screen("GNU nano");
    terminal.press(&["h", "e", "l", "l", "o"]);
    terminal.await_screen("hello");
    terminal.press(&["C-o", "Enter"]);
    terminal.await_screen("Wrote 1 line");
    // Stopped, the session goes on.
    terminal.press(&["C-z"]);
    terminal.await_screen("Stopped");
    assert_eq!(rig.superblock(), "rw");
    terminal.line("fg");
    terminal.await_screen("GNU nano");
    // A new size reaches it: nano's bottom lines move.
    terminal.resize(80, 30);
    wait_until("nano uses the new size", || {
        terminal.screen().lines().count() == 30
    });
    terminal.press(&["!"]);
    terminal.await_screen("hello!");
    terminal.press(&["C-o", "Enter"]);
    wait_until("it is saved", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("hello!"))
    });
    terminal.press(&["C-x"]);
    terminal.await_screen("returncode=0");
    rig.await_superblock("ro");
}

#[test]
fn p7_control_c_sends_the_command_one_interrupt() {
    needs_storage!();
    needs_tool!("tmux");
    let rig = Rig::any();
    let terminal = Terminal::new(&rig);
    terminal.line(&format!("{} -- cat; echo code $?", pstrun(&rig)));
    terminal.await_screen("Running the process");
    terminal.line("echoed");
    wait_until("cat echoes", || {
        terminal.screen().matches("echoed").count() == 2
    });
    terminal.press(&["C-c"]);
    terminal.await_screen("code 130");
    rig.await_superblock("ro");
    // Counted by a command that survives it.
    terminal.line("clear");
    let script = r#"trap "echo; echo INTERRUPTED" INT; echo READY; until [ "$x" = stop ]; do read x; done; exit 5"#;
    terminal.line(&format!(
        "{} -- bash -c '{script}'; echo code $?",
        pstrun(&rig)
    ));
    terminal.await_screen("\nREADY");
    terminal.press(&["C-c"]);
    terminal.await_screen("\nINTERRUPTED");
    terminal.line("stop");
    terminal.await_screen("code 5");
    let screen = terminal.screen();
    assert_eq!(screen.matches("\nINTERRUPTED").count(), 1, "{screen}");
}

#[test]
fn p5_a_stopped_job_dies_with_the_daemon() {
    needs_storage!();
    needs_tool!("tmux");
    let mut rig = Rig::any();
    {
        let terminal = Terminal::new(&rig);
        terminal.line(&format!("{} -- cat", pstrun(&rig)));
        terminal.await_screen("Running the process");
        terminal.press(&["C-z"]);
        terminal.await_screen("Stopped");
        assert_eq!(rig.superblock(), "rw");
        rig.signal_daemon("TERM");
        rig.await_superblock("ro");
        terminal.line("wait; jobs; echo no more jobs");
        terminal.await_screen("\nno more jobs");
    }
    rig.end_daemon().must(0);
}
