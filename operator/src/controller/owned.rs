//! Objects by whom they belong to.
//!
//! Responsible for finding those of one owner without walking over all of them: beside a store, which is filled by a watch,
//! it keeps the names that each owner has. Must never hold what the store has not: objects come from there.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

/// By owner; what an owner is called is up to [`Account::owner_of`]. Owners live where their objects do.
type Names = HashMap<String, BTreeSet<String>>;

/// A store whose objects are found by their owner too.
pub(super) struct Owned<K>
where
    K: Resource<DynamicType = ()> + 'static,
{
    /// All of them.
    pub(super) store: Store<K>,
    owner_of: fn(&K) -> Option<String>,
    names: Arc<RwLock<Names>>,
}

/// What keeps the names: it sees every event of the watch that fills the store.
pub(super) struct Account<K> {
    owner_of: fn(&K) -> Option<String>,
    names: Arc<RwLock<Names>>,
    /// Of a full list that is still coming.
    coming: Names,
}

impl<K> Owned<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + 'static,
{
    /// The account of a store.
    pub(super) fn new(store: Store<K>, owner_of: fn(&K) -> Option<String>) -> (Owned<K>, Account<K>) {
        let names: Arc<RwLock<Names>> = Arc::default();
        let account = Account { owner_of, names: names.clone(), coming: Names::new() };
        (Owned { store, owner_of, names }, account)
    }

    /// What belongs to an owner of this namespace, in the order of the names.
    pub(super) fn of(&self, owner: &str, namespace: &str) -> Vec<Arc<K>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let found = names.get(owner).into_iter().flatten();
        let found = found.filter_map(|name| self.store.get(&ObjectRef::new(name).within(namespace)));
        // One that has got another owner meanwhile may still be among the names of this one, until the next full list.
        found.filter(|object| (self.owner_of)(object).as_deref() == Some(owner)).collect()
    }
}

impl<K: Resource> Account<K> {
    /// Takes account of an event.
    pub(super) fn note(&mut self, event: &Event<K>) {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => {
                if let Some(owner) = (self.owner_of)(object) {
                    self.coming.entry(owner).or_default().insert(object.name_any());
                }
            }
            Event::InitDone => *self.names() = mem::take(&mut self.coming),
            Event::Apply(object) => {
                if let Some(owner) = (self.owner_of)(object) {
                    self.names().entry(owner).or_default().insert(object.name_any());
                }
            }
            Event::Delete(object) => {
                let Some(owner) = (self.owner_of)(object) else { return };
                let mut names = self.names();
                let Some(of_owner) = names.get_mut(&owner) else { return };
                of_owner.remove(&object.name_any());
                if of_owner.is_empty() {
                    names.remove(&owner);
                }
            }
        }
    }

    fn names(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector::store;
    use serde_json::json;

    use super::*;

    fn owner_of(map: &ConfigMap) -> Option<String> {
        Some(map.labels().get("owner")?.clone())
    }

    fn map(name: &str, owner: &str) -> ConfigMap {
        let map = json!({"metadata": {"name": name, "namespace": "shop", "labels": {"owner": owner}}});
        serde_json::from_value(map).unwrap()
    }

    #[test]
    fn each_owner_has_its_own() {
        let (reader, mut writer) = store::<ConfigMap>();
        let (owned, mut account) = Owned::new(reader, owner_of);
        let mut see = |events: Vec<Event<ConfigMap>>| {
            for event in events {
                writer.apply_watcher_event(&event);
                account.note(&event);
            }
        };
        let of = |owner| owned.of(owner, "shop").iter().map(|map| map.name_any()).collect::<Vec<_>>();
        see(vec![Event::Init, Event::InitApply(map("b", "x")), Event::InitApply(map("a", "x"))]);
        assert_eq!(of("x"), Vec::<String>::new(), "the list is not complete");
        see(vec![Event::InitDone, Event::Apply(map("c", "y"))]);
        assert_eq!((of("x"), of("y")), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
        assert_eq!(owned.of("x", "elsewhere"), Vec::new());
        see(vec![Event::Delete(map("a", "x")), Event::Apply(map("b", "y"))]);
        assert_eq!((of("x"), of("y")), (Vec::new(), vec!["b".to_owned(), "c".to_owned()]));
        see(vec![Event::Init, Event::InitApply(map("d", "x")), Event::InitDone]);
        assert_eq!((of("x"), of("y")), (vec!["d".to_owned()], Vec::new()));
    }
}
