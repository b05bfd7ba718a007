//! The people of the tests: bare numbers, so that no account has to be made.

/// The access group, and the storage's group.
pub const ACCESS_GROUP: u32 = 64100;
/// The storage's owner.
pub const STORAGE_USER: u32 = 64110;

/// Somebody who runs commands.
#[derive(Clone, Copy)]
pub struct Person {
    pub uid: u32,
    pub gid: u32,
    groups: &'static [u32],
}

/// Has the access group as a supplementary group.
pub const MEMBER: Person = Person {
    uid: 64101,
    gid: 64101,
    groups: &[64199, ACCESS_GROUP],
};
/// Has the access group as the primary group.
pub const PRIMARY: Person = Person {
    uid: 64103,
    gid: ACCESS_GROUP,
    groups: &[],
};
/// Has nothing to do with it.
pub const OUTSIDER: Person = Person {
    uid: 64102,
    gid: 64102,
    groups: &[64199],
};

impl Person {
    /// The words before a command that make it this person's.
    pub fn prefix(self) -> Vec<String> {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let groups = match groups.is_empty() {
            true => "--clear-groups".to_owned(),
            false => format!("--groups={}", groups.join(",")),
        };
        let (uid, gid) = (self.uid, self.gid);
        [
            "setpriv",
            &format!("--reuid={uid}"),
            &format!("--regid={gid}"),
            &groups,
            "--",
        ]
        .map(str::to_owned)
        .to_vec()
    }
}
