use super::*;

const TOPIC: TopicId = TopicId([1; 16]);
const OTHER: TopicId = TopicId([2; 16]);

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.learn_addresses([(1, "a:1".to_owned()), (2, "b:1".to_owned())]);
    plan.learn_topic(TOPIC);
    plan.learn_leader(0, Leader { broker: 1, epoch: 5 });
    plan.learn_leader(1, Leader { broker: 2, epoch: 5 });
    plan
}

fn started(partitions: &[i32]) -> Plan {
    let mut plan = plan();
    for &partition in partitions {
        plan.start(partition, TOPIC, 1, 100, None);
    }
    plan
}

fn positions(wants: &[Want]) -> Vec<(i32, i64)> {
    wants.iter().map(|want| (want.partition, want.position)).collect()
}

#[test]
fn each_broker_is_asked_for_what_it_leads_once_at_a_time() {
    let (mut plan, now) = (started(&[0, 1]), Instant::now());
    assert_eq!(plan.brokers(now), [1, 2]);
    let wants = plan.take_wants(1, now);
    assert_eq!(positions(&wants), [(0, 100)]);
    assert_eq!(wants[0].leader_epoch, 5);
    assert!(plan.take_wants(1, now).is_empty());
    assert_eq!(plan.answered(&wants[0], Answer::Read { next: 150 }, now), Verdict::Deliver);
    assert_eq!(positions(&plan.take_wants(1, now)), [(0, 150)]);
    assert_eq!(positions(&plan.take_wants(2, now)), [(1, 100)]);
}

#[test]
fn an_answer_to_what_was_stopped_or_started_anew_is_ignored() {
    let now = Instant::now();
    let mut plan = started(&[0]);
    let old = plan.take_wants(1, now)[0];
    plan.stop(0);
    assert_eq!(plan.answered(&old, Answer::Read { next: 150 }, now), Verdict::Ignore);
    plan.start(0, TOPIC, 2, 120, None);
    assert_eq!(plan.answered(&old, Answer::Read { next: 150 }, now), Verdict::Ignore);
    assert_eq!(positions(&plan.take_wants(1, now)), [(0, 120)]);
}

#[test]
fn a_new_leader_takes_over_where_the_old_one_was_and_makes_its_answer_worthless() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    let old = plan.take_wants(1, now)[0];
    plan.learn_leader(0, Leader { broker: 2, epoch: 6 });
    let new = plan.take_wants(2, now)[0];
    assert_eq!((new.position, new.leader_epoch), (100, 6));
    assert_eq!(plan.answered(&old, Answer::Read { next: 150 }, now), Verdict::Ignore);
    assert_eq!(plan.answered(&new, Answer::Read { next: 130 }, now), Verdict::Deliver);
    // A broker that has not heard of it yet changes nothing.
    plan.learn_leader(0, Leader { broker: 1, epoch: 5 });
    assert_eq!(positions(&plan.take_wants(2, now)), [(0, 130)]);
}

#[test]
fn what_leaders_say_as_they_come_and_go_is_asked_again_a_little_later() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    for error in [
        ResponseError::NotLeaderOrFollower,
        ResponseError::FencedLeaderEpoch,
        ResponseError::UnknownLeaderEpoch,
        ResponseError::UnknownTopicId,
    ] {
        let now = now + RETRY_PAUSE;
        let want = plan.take_wants(1, now)[0];
        assert_eq!(plan.answered(&want, Answer::Refused(error), now), Verdict::Refresh);
        assert!(plan.take_wants(1, now).is_empty());
        assert_eq!(plan.next_start(1, now), Some(now + RETRY_PAUSE));
        assert_eq!(plan.take_wants(1, now + RETRY_PAUSE).len(), 1);
        plan.start(0, TOPIC, 1, 100, None);
    }
    // With the new leader's name there is nothing to wait for.
    let want = plan.take_wants(1, now)[0];
    plan.answered(&want, Answer::Refused(ResponseError::NotLeaderOrFollower), now);
    plan.learn_leader(0, Leader { broker: 2, epoch: 9 });
    assert_eq!(plan.take_wants(2, now).len(), 1);
}

#[test]
fn what_a_person_has_to_mend_is_told_and_asked_again_later() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    let want = plan.take_wants(1, now)[0];
    let refused = Answer::Refused(ResponseError::TopicAuthorizationFailed);
    assert_eq!(plan.answered(&want, refused, now), Verdict::Report);
    assert!(plan.take_wants(1, now + RETRY_PAUSE).is_empty());
    assert_eq!(plan.take_wants(1, now + TROUBLE_PAUSE).len(), 1);
}

#[test]
fn an_offset_out_of_range_stops_the_partition() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    let want = plan.take_wants(1, now)[0];
    let refused = Answer::Refused(ResponseError::OffsetOutOfRange);
    assert_eq!(plan.answered(&want, refused, now), Verdict::OutOfRange);
    assert!(plan.take_wants(1, now + TROUBLE_PAUSE).is_empty());
    assert!(plan.is_empty());
}

#[test]
fn a_replica_nearby_is_read_from_until_it_fails_or_its_time_is_up() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    let want = plan.take_wants(1, now)[0];
    assert_eq!(plan.answered(&want, Answer::Elsewhere { replica: 2 }, now), Verdict::Ignore);
    let near = plan.take_wants(2, now)[0];
    assert_eq!((near.position, near.leader_epoch), (100, 5));
    // A replica's "out of range" means that it is behind.
    let refused = Answer::Refused(ResponseError::OffsetOutOfRange);
    assert_eq!(plan.answered(&near, refused, now), Verdict::Refresh);
    let want = plan.take_wants(1, now)[0];
    plan.answered(&want, Answer::Elsewhere { replica: 2 }, now);
    assert!(plan.take_wants(1, now).is_empty());
    assert_eq!(plan.take_wants(1, now + REPLICA_LIFETIME).len(), 1);
    // One that nobody knows is not gone to.
    let want = started(&[0]).take_wants(1, now)[0];
    plan = started(&[0]);
    plan.take_wants(1, now);
    plan.answered(&want, Answer::Elsewhere { replica: 9 }, now);
    assert_eq!(plan.take_wants(1, now).len(), 1);
}

#[test]
fn what_a_dead_broker_was_asked_is_asked_again_of_the_leader() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    let want = plan.take_wants(1, now)[0];
    plan.answered(&want, Answer::Elsewhere { replica: 2 }, now);
    let wants = plan.take_wants(2, now);
    plan.abandon(&wants);
    assert_eq!(positions(&plan.take_wants(1, now)), [(0, 100)]);
}

#[test]
fn another_topic_of_the_same_name_is_not_read() {
    let (mut plan, now) = (started(&[0]), Instant::now());
    plan.learn_topic(OTHER);
    plan.learn_leader(0, Leader { broker: 1, epoch: 0 });
    assert!(plan.take_wants(1, now).is_empty());
    assert!(plan.brokers(now).is_empty());
    plan.start(0, OTHER, 2, 0, None);
    assert_eq!(positions(&plan.take_wants(1, now)), [(0, 0)]);
}

#[test]
fn a_missing_leader_is_looked_for() {
    let mut plan = started(&[0, 7]);
    assert!(plan.lacks_leaders());
    plan.learn_leader(7, Leader { broker: 1, epoch: 0 });
    assert!(!plan.lacks_leaders());
    assert!(!Plan::default().lacks_leaders());
}

#[test]
fn what_was_served_longest_ago_is_asked_for_first() {
    let (mut plan, now) = (plan(), Instant::now());
    for partition in 0..4 {
        plan.learn_leader(partition, Leader { broker: 1, epoch: 9 });
        plan.start(partition, TOPIC, 1, 100, None);
    }
    let wants = plan.take_wants(1, now);
    for want in &wants[..2] {
        plan.answered(want, Answer::Read { next: 200 }, now);
    }
    plan.abandon(&wants);
    let order: Vec<i32> = plan.take_wants(1, now).iter().map(|want| want.partition).collect();
    assert_eq!(order, [2, 3, 0, 1]);
}
