//! Looks at what somebody watches, once a second.
//!
//! Responsible for one task for each thing that is watched, however many watch it, which ends with the last of them; and
//! for fetching what it shows. Must never queue: who is slow gets the newest look and misses those between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::stores::Stores;
use super::view;
use crate::api::CrashMonitor;
use crate::validate::{Defaults, validate};
use crate::workers;

/// How often is looked. Workers bring their status up to date as often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often events are listed.
const EVENTS_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait for them.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(2);
/// Events that are fetched at most: the API server has them in no useful order, and keeps them for an hour.
const EVENTS_MAX: u32 = 500;

/// What is watched.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Key {
    /// All monitors.
    Overview,
    /// One of them.
    Monitor {
        /// `metadata.namespace`
        namespace: String,
        /// `metadata.name`
        name: String,
    },
}

/// A look, as JSON; None before the first.
pub(super) type Text = Option<Arc<str>>;

/// All feeds. There are no more than streams: a feed without a receiver ends.
pub(super) struct Feeds {
    client: Client,
    stores: Stores,
    defaults: Defaults,
    feeds: Mutex<HashMap<Key, watch::Sender<Text>>>,
}

impl Feeds {
    pub(super) fn new(client: Client, stores: Stores, defaults: Defaults) -> Feeds {
        Feeds { client, stores, defaults, feeds: Mutex::default() }
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<Key, watch::Sender<Text>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at it from now on, until the receiver is dropped. The last look there is comes at once.
    pub(super) fn subscribe(self: &Arc<Feeds>, key: Key) -> watch::Receiver<Text> {
        let mut feeds = self.feeds();
        let sender = feeds.entry(key.clone()).or_insert_with(|| {
            let sender = watch::Sender::new(None);
            tokio::spawn(run(Arc::clone(self), key, sender.clone()));
            sender
        });
        let mut receiver = sender.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Forgets a feed that nobody watches. Under the same lock as [`Feeds::subscribe`], so none is lost.
    fn forget(&self, key: &Key) -> bool {
        let mut feeds = self.feeds();
        let is_watched = feeds.get(key).is_some_and(|sender| sender.receiver_count() > 0);
        if !is_watched {
            feeds.remove(key);
        }
        !is_watched
    }

    fn overview(&self) -> String {
        json(&view::overview(&self.stores.monitors(), self.stores.is_ready(), Timestamp::now()))
    }

    async fn monitor(&self, namespace: &str, name: &str, events: &mut Events) -> String {
        let Some(resource) = self.stores.monitor(namespace, name) else {
            return json(&view::Missing::new(namespace, name, self.stores.is_ready()));
        };
        let pods = self.stores.pods(namespace, name);
        let answers = workers::ask(&pods).await;
        events.refresh(&self.client, &resource).await;
        let checked = validate(&resource, &self.defaults).ok();
        let facts = view::Facts {
            resource: &resource,
            checked: checked.as_ref().map(|monitor| &monitor.checked),
            pods: &pods,
            answers: &answers,
            events: events.last.as_deref(),
            now: Timestamp::now(),
        };
        json(&view::monitor(&facts))
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("a view is plain data")
}

async fn run(feeds: Arc<Feeds>, key: Key, sender: watch::Sender<Text>) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events = Events::default();
    loop {
        ticks.tick().await;
        if sender.receiver_count() == 0 && feeds.forget(&key) {
            return;
        }
        let text = match &key {
            Key::Overview => feeds.overview(),
            Key::Monitor { namespace, name } => feeds.monitor(namespace, name, &mut events).await,
        };
        sender.send_replace(Some(text.into()));
    }
}

/// The events of one resource.
#[derive(Default)]
struct Events {
    fetched_at: Option<Instant>,
    /// None: they could not be read.
    last: Option<Vec<Event>>,
}

impl Events {
    async fn refresh(&mut self, client: &Client, resource: &CrashMonitor) {
        if self.fetched_at.is_some_and(|at| at.elapsed() < EVENTS_INTERVAL) {
            return;
        }
        self.fetched_at = Some(Instant::now());
        let namespace = resource.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let uid = resource.meta().uid.as_deref().unwrap_or_default();
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(EVENTS_MAX);
        self.last = match timeout(EVENTS_TIMEOUT, api.list(&params)).await {
            Ok(Ok(list)) => Some(list.items),
            Ok(Err(error)) => {
                tracing::debug!("console: events can't be read: {error}");
                None
            }
            Err(_) => None,
        };
    }
}
