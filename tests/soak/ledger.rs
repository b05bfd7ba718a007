//! What must be in the storage. A slot is a file that one client writes anew in
//! each of its sessions and puts in place by a rename: so it is always one whole
//! version, the last acknowledged or one after it.

use std::collections::BTreeMap;
use std::path::Path;

/// All slots of all clients.
#[derive(Default)]
pub struct Ledger {
    slots: BTreeMap<String, Slot>,
}

#[derive(Default)]
struct Slot {
    acknowledged: Option<String>,
    /// Tried since then: may be there or not.
    tried: Vec<String>,
}

impl Ledger {
    /// A session is about to write this.
    pub fn try_version(&mut self, slot: &str, content: &str) {
        let slot = self.slots.entry(slot.to_owned()).or_default();
        slot.tried.push(content.to_owned());
    }

    /// The session returned 0: nothing but this may be there.
    pub fn acknowledge(&mut self, slot: &str, content: &str) {
        let slot = self.slots.entry(slot.to_owned()).or_default();
        slot.acknowledged = Some(content.to_owned());
        slot.tried.clear();
    }

    /// How many slots have an acknowledged version.
    pub fn acknowledged(&self) -> usize {
        let slots = self.slots.values();
        slots.filter(|slot| slot.acknowledged.is_some()).count()
    }

    /// What is wrong in this copy of the data root; empty if nothing is.
    pub fn faults_in(&self, data: &Path) -> Vec<String> {
        let faults = self.slots.iter().filter_map(|(name, slot)| {
            let found = std::fs::read_to_string(data.join(name)).ok();
            let good = match &found {
                None => slot.acknowledged.is_none(),
                Some(_) => {
                    found == slot.acknowledged
                        || slot.tried.iter().any(|t| Some(t) == found.as_ref())
                }
            };
            (!good).then(|| {
                let start = |text: &Option<String>| {
                    text.as_ref()
                        .map(|text| text.chars().take(20).collect::<String>())
                };
                format!(
                    "{name}: has {:?} ({} bytes), acknowledged {:?}",
                    start(&found),
                    found.as_ref().map_or(0, String::len),
                    start(&slot.acknowledged)
                )
            })
        });
        faults.collect()
    }
}
