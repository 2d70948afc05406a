//! Consumer groups.
//!
//! Responsible for reading what a group has committed and who is in it, and for committing in a group's name while
//! it has no members. Must never join a group.

use super::{Isolation, TIMEOUT, Topics, admin_options, block_on};
use crate::wait::until;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset to go on from.
    pub offset: i64,
    /// The text committed with it.
    pub metadata: String,
}

impl Topics {
    /// What a group has committed, for the partitions of a topic with a commit. Waits for open transactions that
    /// hold offsets (`require_stable`).
    #[track_caller]
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, Committed> {
        let consumer = self.consumer(Isolation::ReadCommitted, &[("group.id", group)]);
        let partitions = self.partitions_of(topic).unwrap_or_else(|| panic!("there is no topic {topic}"));
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        // A broker that has just made the topic of the groups is not their coordinator yet.
        let read = until(&format!("what {group} committed for {topic}"), TIMEOUT, || {
            consumer.committed_offsets(list.clone(), TIMEOUT)
        });
        let mut committed = BTreeMap::new();
        for element in read.elements() {
            element.error().unwrap_or_else(|e| panic!("{group}, {topic}/{}: {e}", element.partition()));
            if let Offset::Offset(offset) = element.offset() {
                let metadata = element.metadata().to_owned();
                committed.insert(element.partition(), Committed { offset, metadata });
            }
        }
        committed
    }

    /// Commits in the name of a group without members, which the broker demands.
    #[track_caller]
    pub fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) {
        let consumer = self.consumer(Isolation::ReadCommitted, &[("group.id", group)]);
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(topic, partition);
        element.set_offset(Offset::Offset(offset)).expect("a real offset");
        element.set_metadata(metadata);
        let committed = consumer.commit(&list, CommitMode::Sync);
        committed.unwrap_or_else(|e| panic!("committing {topic}/{partition} for {group}: {e}"));
    }

    /// The client ids of a group's members; empty when there is no such group.
    #[track_caller]
    pub fn group_members(&self, group: &str) -> Vec<String> {
        let listed = self.inspector().fetch_group_list(Some(group), TIMEOUT);
        let listed = listed.unwrap_or_else(|e| panic!("reading the group {group}: {e}"));
        let members = listed.groups().iter().flat_map(|group| group.members());
        members.map(|member| member.client_id().to_owned()).collect()
    }

    /// What a group is about, in Kafka's words, such as `Stable`; empty when there is no such group.
    #[track_caller]
    pub fn group_state(&self, group: &str) -> String {
        let listed = self.inspector().fetch_group_list(Some(group), TIMEOUT);
        let listed = listed.unwrap_or_else(|e| panic!("reading the group {group}: {e}"));
        listed.groups().first().map(|group| group.state().to_owned()).unwrap_or_default()
    }

    /// Deletes a group without members, and so what it has committed.
    #[track_caller]
    pub fn delete_group(&self, group: &str) {
        let deleted = block_on(self.admin().delete_groups(&[group], &admin_options()));
        for result in deleted.unwrap_or_else(|e| panic!("deleting the group {group}: {e}")) {
            result.unwrap_or_else(|(_, code)| panic!("deleting the group {group}: {code}"));
        }
    }
}
