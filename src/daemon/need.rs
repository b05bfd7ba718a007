//! Whether there is as much free as a client needs, as the last look found it. It is judged before
//! the session is asked for, so that a storage that is full anyway is not made writable; and again
//! at the grant, since another may have been mounted meanwhile. The arbiter need not know.

use super::core::Core;
use crate::escape::escape;
use crate::size;
use crate::sys::file::Space;
use crate::sys::socket::Peer;

/// Why this client's need of `need` bytes cannot be met; `None`: it can, or nobody can tell, and
/// then who makes it writable finds out why. Only root may use what the filesystem keeps back.
pub fn lacking(core: &Core, need: u64, peer: Peer) -> Option<String> {
    if need == 0 {
        return None;
    }
    lack(need, peer.uid, core.space()?, core.mount_point())
}

fn lack(need: u64, uid: u32, space: Space, mount: &[u8]) -> Option<String> {
    let mount = escape(mount);
    let delete = "delete what is not needed there (`pst run -- rm FILE`)";
    let (free, whom) = match uid {
        0 => (space.free_for_root, "root".to_owned()),
        _ => (space.free, format!("user {uid}")),
    };
    if free < need {
        return Some(format!(
            "{} needed, {} free for {whom} on {mount}: see `df -h {mount}` and `pst status`, \
             and {delete}",
            size::show(need),
            size::show(free)
        ));
    }
    (space.free_inodes == Some(0)).then(|| {
        format!(
            "no file can be made on {mount}, no inode is free: see `df -i {mount}`, and {delete}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space {
        size: 1000,
        free: 100,
        free_for_root: 150,
        free_inodes: Some(1),
        read_only: true,
        no_exec: true,
    };

    #[test]
    fn what_is_kept_back_is_roots() {
        assert_eq!(lack(100, 1000, SPACE, b"/m"), None);
        assert_eq!(lack(150, 0, SPACE, b"/m"), None);
        let user = lack(101, 1000, SPACE, b"/m\n").unwrap();
        assert!(
            user.starts_with(r"101 bytes needed, 100 bytes free for user 1000 on /m\n: see"),
            "{user}"
        );
        let root = lack(151, 0, SPACE, b"/m").unwrap();
        assert!(
            root.starts_with("151 bytes needed, 150 bytes free for root on /m: see"),
            "{root}"
        );
    }

    #[test]
    fn without_an_inode_no_space_is_of_use() {
        let free_inodes = |free_inodes| Space {
            free_inodes,
            ..SPACE
        };
        let text = lack(1, 0, free_inodes(Some(0)), b"/m").unwrap();
        assert!(text.contains("no inode is free"), "{text}");
        assert_eq!(lack(1, 0, free_inodes(None), b"/m"), None);
    }
}
