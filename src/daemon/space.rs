//! Whether there is as much free as a client needs, as the last look found it. It is judged before
//! the session is asked for, so that a storage that is full anyway is not made writable; and again
//! at the grant, since another may have been mounted meanwhile. The arbiter need not know.

use crate::escape::escape;
use crate::size;
use crate::sys::file::Space;
use crate::sys::socket::Peer;

/// Why this client's need of `need` bytes cannot be met; `None`: it can. Only root may use what the
/// filesystem keeps back.
pub(super) fn lacking(need: u64, peer: Peer, space: Space, mount: &[u8]) -> Option<String> {
    if need == 0 {
        return None;
    }
    let mount = escape(mount);
    let delete = "delete what is not needed there (`pst run -- rm FILE`)";
    let (free, whom) = match peer.uid {
        0 => (space.free_for_root, "root".to_owned()),
        _ => (space.free, format!("user {}", peer.uid)),
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
