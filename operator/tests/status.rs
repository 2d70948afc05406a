//! What is said of a monitor, and when it is worth an event or a write.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_core::status::{DataLoss, HoldReason, Holder};
use crashmonitor_operator::api::{CrashMonitorStatus, DesiredState};
use crashmonitor_operator::events;
use crashmonitor_operator::status::pods::are_missing;
use crashmonitor_operator::status::{Write, write};
use serde_json::json;
use world::World;

#[path = "support/world.rs"]
mod world;

/// The reasons of the events between the status before the act and the one after it.
fn events_of(world: &mut World, act: impl FnOnce(&mut World)) -> Vec<String> {
    let before = world.status.clone();
    act(world);
    let after = world.look().clone();
    events::between(&before, &after).into_iter().map(|event| event.reason).collect()
}

#[test]
fn all_is_well() {
    let world = World::running(2);
    for (type_, expected) in [
        ("Ready", "True/Running"),
        ("Progressing", "False/Settled"),
        ("Degraded", "False/AsExpected"),
        ("KafkaReachable", "True/Reachable"),
        ("CheckpointStoreReachable", "True/Reachable"),
        ("WatermarkAdvancing", "True/Advancing"),
        ("DataLoss", "False/NoDataLoss"),
        ("Suspended", "False/NotSuspended"),
    ] {
        assert_eq!(world.condition(type_), expected, "{type_}");
    }
    let status = &world.status;
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas), (2, 2, 2));
    assert_eq!(status.partitions.unwrap().input, 4);
    assert_eq!(status.watermark.as_ref().unwrap().lag_seconds, Some(2));
    assert_eq!(
        status.selector.as_deref(),
        Some("app.kubernetes.io/instance=checkout,app.kubernetes.io/name=crashmonitor-worker")
    );
    assert_eq!(status.workers[0].recoveries["snapshot"], 2);
}

#[test]
fn a_new_monitor_starts_and_then_runs() {
    let mut world = World::new(1);
    let reasons = events_of(&mut world, |_| {});
    assert_eq!(reasons, Vec::<String>::new());
    assert_eq!(world.status.lag, None, "no lag is not a lag of zero");
    assert_eq!(world.condition("Ready"), "False/Starting");
    assert_eq!(world.condition("KafkaReachable"), "Unknown/NoWorkerAnswers");
    world.add_pod(0, true);
    world.answer(0);
    assert_eq!(events_of(&mut world, |_| {}), ["Ready"]);
}

#[test]
fn scaling_has_a_beginning_and_an_end() {
    let mut world = World::running(1);
    let begun = events_of(&mut world, |world| {
        world.resource.spec.replicas = 3;
        world.scaled_from = Some(1);
    });
    assert_eq!(begun, ["ScalingStarted"]);
    assert_eq!(world.message("Progressing"), "from 1 to 3 workers");
    world.scaled_from = None;
    let meanwhile = events_of(&mut world, |world| {
        world.add_pod(1, true);
        world.add_pod(2, false);
    });
    assert_eq!(meanwhile, Vec::<String>::new());
    assert_eq!(world.condition("Progressing"), "True/Scaling");
    assert_eq!(world.condition("Ready"), "False/Scaling");
    let done = events_of(&mut world, |world| world.add_pod(2, true));
    assert_eq!(done, ["ScalingCompleted", "Ready"]);
}

#[test]
fn a_rollout_has_a_beginning_and_an_end() {
    let mut world = World::running(2);
    let begun = events_of(&mut world, |world| {
        world.set["status"]["updateRevision"] = json!("r2");
        world.pod(1)["metadata"]["deletionTimestamp"] = json!(world::START);
    });
    assert_eq!(begun, ["RollingUpdateStarted"]);
    let meanwhile = events_of(&mut world, |world| {
        world.add_pod(1, true);
        world.pod(1)["metadata"]["labels"]["controller-revision-hash"] = json!("r2");
    });
    assert_eq!(meanwhile, ["Ready"]);
    assert_eq!(world.condition("Progressing"), "True/RollingUpdate");
    let done = events_of(&mut world, |world| {
        world.pod(0)["metadata"]["labels"]["controller-revision-hash"] = json!("r2");
    });
    assert_eq!(done, ["RollingUpdateCompleted"]);
}

/// What stood in the way of the first pod is gone.
#[test]
fn a_first_start_after_a_refusal_is_no_rollout() {
    let mut world = World::new(1);
    world.refused = Some("Service checkout-workers is there already".to_string());
    world.look();
    assert_eq!(world.condition("Ready"), "False/Refused");
    world.refused = None;
    world.set["status"]["observedGeneration"] = json!(0);
    assert_eq!(events_of(&mut world, |_| {}), Vec::<String>::new());
    assert_eq!(world.condition("Progressing"), "True/Starting");
}

/// Right after a change nobody has acted on it: "settled" would be a lie about the new generation.
#[test]
fn a_spec_that_the_set_has_not_seen_yet_is_not_settled() {
    let mut world = World::running(1);
    world.set["metadata"]["generation"] = json!(2);
    world.look();
    assert_eq!(world.condition("Progressing"), "True/RollingUpdate");
}

#[test]
fn more_workers_than_partitions_is_no_error() {
    let mut world = World::running(4);
    let told = events_of(&mut world, |world| {
        world.resource.spec.replicas = 6;
        world.add_pod(4, true);
        world.add_pod(5, true);
    });
    assert_eq!(told, ["ReplicasExceedPartitions"]);
    assert_eq!(world.condition("Ready"), "True/ReplicasExceedPartitions");
    assert_eq!(world.condition("Degraded"), "False/AsExpected");
    assert!(
        world.message("Ready").contains("has 4 partitions and spec.replicas is 6: 2 of them read nothing")
    );
}

#[test]
fn suspended_and_resumed() {
    let mut world = World::running(1);
    let told = events_of(&mut world, |world| {
        world.resource.spec.desired_state = DesiredState::Suspended;
        world.scaled_from = Some(1);
    });
    assert_eq!(told, ["Suspended", "ScalingStarted"]);
    world.scaled_from = None;
    world.answers.clear();
    let done = events_of(&mut world, |world| world.pods.clear());
    assert_eq!(done, ["ScalingCompleted"]);
    assert_eq!(world.condition("Ready"), "False/Suspended");
    let told = events_of(&mut world, |world| {
        world.resource.spec.desired_state = DesiredState::Running;
        world.scaled_from = Some(0);
    });
    assert_eq!(told, ["Resumed", "ScalingStarted"]);
}

#[test]
fn no_workers_were_asked_for() {
    let mut world = World::new(0);
    world.look();
    assert_eq!(world.condition("Ready"), "False/ScaledToZero");
}

#[test]
fn an_invalid_spec_is_told_and_changes_nothing() {
    let mut world = World::running(1);
    let told = events_of(&mut world, |world| {
        world.resource.spec.kafka.bootstrap_servers = "kafka:70000".to_string();
    });
    assert_eq!(told, ["InvalidSpec"]);
    assert_eq!(world.condition("Ready"), "False/InvalidSpec");
    assert_eq!(world.condition("Degraded"), "True/InvalidSpec");
    assert_eq!(
        world.message("Degraded"),
        "spec.kafka.bootstrapServers: must be host:port, comma-separated, got \"kafka:70000\"; the workers go on \
         with the settings that they have"
    );
    assert_eq!(world.status.ready_replicas, 1);
    assert_eq!(world.status.image.as_deref(), Some("crashmonitor/worker:0.1.0"));
}

/// Every way in which a pod does not run, with the reason and the words that help.
#[test]
fn what_keeps_a_pod_from_running_is_named() {
    type Act = fn(&mut World);
    let cases: [(&str, &str, Act); 8] = [
        ("Unschedulable", "or add nodes: 0/3 nodes are available", |world| {
            world.pod(0)["status"]["conditions"] = json!([
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"},
            ]);
        }),
        ("ImagePullFailed", "correct spec.image or spec.imagePullSecrets: not found", |world| {
            world.container(0, json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}));
        }),
        ("ImagePullFailed", "can't be pulled", |world| {
            world.container(0, json!({"waiting": {"reason": "ErrImageNeverPull", "message": "absent"}}));
        }),
        ("SecretMissing", "create the Secret or correct its name and key in the spec", |world| {
            world.container(0, json!({"waiting": {"reason": "ContainerCreating"}}));
            let text = "MountVolume.SetUp failed for volume \"kafka-password\" : secret \"s\" not found";
            world.hindrances.insert("checkout-worker-0".to_string(), text.to_string());
        }),
        ("ConfigurationRefused", "kafka.config.x: no such setting", |world| {
            world.container(0, json!({"waiting": {"reason": "CrashLoopBackOff"}}));
            world.pod(0)["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {
                "exitCode": 2, "message": "{\"log\":1}\ncrashmonitor-worker: kafka.config.x: no such setting\n",
            }});
        }),
        ("WorkerCrashing", "the worker ended with code 1: boom", |world| {
            world.container(0, json!({"terminated": {"exitCode": 1, "message": "boom"}}));
        }),
        ("OutOfMemory", "spec.resources.limits.memory: raise it", |world| {
            world.container(0, json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        }),
        ("ContainerNotCreated", "CreateContainerError: no such file", |world| {
            world.container(
                0,
                json!({"waiting": {"reason": "CreateContainerError", "message": "no such file"}}),
            );
        }),
    ];
    for (reason, text, act) in cases {
        let mut world = World::running(2);
        let told = events_of(&mut world, |world| {
            world.answers.remove("checkout-worker-0");
            act(world);
        });
        assert_eq!(told, [reason]);
        assert_eq!(world.condition("Ready"), format!("False/{reason}"), "{reason}");
        assert_eq!(world.condition("Degraded"), format!("True/{reason}"));
        assert!(
            world.message("Degraded").starts_with("checkout-worker-0: "),
            "{}",
            world.message("Degraded")
        );
        assert!(world.message("Degraded").contains(text), "{}", world.message("Degraded"));
    }
}

#[test]
fn pods_that_can_not_be_created_are_told() {
    let mut world = World::new(1);
    world.hindrances.insert("checkout-worker".to_string(), "exceeded quota: compute".to_string());
    world.look();
    assert_eq!(world.condition("Ready"), "False/PodsNotCreated");
    assert_eq!(world.message("Ready"), "the pods can't be created: exceeded quota: compute");
}

/// What a worker says while it starts: the setting that its trouble is about comes first.
#[test]
fn a_worker_that_waits_says_for_what() {
    for (text, reason) in [
        ("input.topic: there is no topic logs; waiting for it to be created", "InputTopicMissing"),
        ("kafka.authentication: user or password refused: x", "KafkaAuthenticationFailed"),
        ("kafka.tls: x", "KafkaTlsFailed"),
        ("kafka.bootstrapServers: no broker answers: x", "KafkaUnreachable"),
        ("repartition.replicationFactor: topic t can't have 3 replicas", "TooFewBrokers"),
        ("joining the consumer groups", "Starting"),
    ] {
        let mut world = World::new(1);
        world.add_pod(0, false);
        let answer = world.answer(0);
        answer.ready = false;
        answer.not_ready_reason = Some(text.to_string());
        world.look();
        assert_eq!(world.condition("Ready"), format!("False/{reason}"), "{text}");
    }
}

#[test]
fn kafka_goes_and_comes_back() {
    let mut world = World::running(2);
    let told = events_of(&mut world, |world| {
        let kafka = &mut world.answer(1).kafka;
        kafka.reachable = false;
        kafka.error = Some("no broker answers: connection refused".to_string());
    });
    assert_eq!(told, ["KafkaUnreachable"]);
    assert_eq!(world.condition("KafkaReachable"), "False/KafkaUnreachable");
    assert!(world.message("KafkaReachable").starts_with("1 of 2 workers can't use Kafka: no broker answers"));
    let told = events_of(&mut world, |world| world.answer(1).kafka.reachable = true);
    assert_eq!(told, ["KafkaReachable"]);
}

#[test]
fn redis_goes_and_nothing_is_lost() {
    let mut world = World::running(1);
    let told = events_of(&mut world, |world| {
        let store = world.answer(0).checkpoint_store.as_mut().unwrap();
        store.reachable = false;
        store.error = Some("Redis, connect: connection refused".to_string());
    });
    assert_eq!(told, ["CheckpointStoreUnreachable"]);
    assert_eq!(world.condition("Ready"), "True/Running");
    assert!(world.message("CheckpointStoreReachable").contains("nothing is lost, but recovery takes longer"));
}

#[test]
fn without_checkpoints_there_is_no_store() {
    let mut world = World::running(1);
    world.resource.spec.checkpoint = None;
    world.look();
    assert_eq!(world.condition("CheckpointStoreReachable"), "Unknown/NotConfigured");
}

#[test]
fn a_watermark_that_stands_still_is_told_and_so_is_its_end() {
    let mut world = World::running(1);
    world.pass(59);
    world.look();
    assert_eq!(world.condition("WatermarkAdvancing"), "True/Advancing");
    let told = events_of(&mut world, |world| world.pass(2));
    assert_eq!(told, ["WatermarkStalled"]);
    assert!(world.message("WatermarkAdvancing").contains("input partition 3 has records to read"));
    assert_eq!(world.condition("Degraded"), "True/WatermarkStalled");
    // A restarted operator does not know since when: it believes the status.
    world.memory = Default::default();
    world.look();
    assert_eq!(world.condition("WatermarkAdvancing"), "False/WatermarkStalled");
    let told = events_of(&mut world, |world| {
        world.pass(1);
        world.advance();
    });
    assert_eq!(told, ["WatermarkResumed"]);
}

#[test]
fn a_silent_input_has_not_stalled() {
    let mut world = World::running(1);
    for partition in world.answer(0).aggregate.values_mut() {
        partition.holder = Some(Holder { partition: Some(1), reason: HoldReason::Idle });
    }
    world.look();
    world.pass(3600);
    world.look();
    assert_eq!(world.condition("WatermarkAdvancing"), "True/Quiet");
    assert_eq!(world.status.watermark.as_ref().unwrap().lag_seconds, None);
}

/// The lowest of all could be the one that nobody reports.
#[test]
fn a_watermark_is_only_said_when_all_partitions_are_reported() {
    let mut world = World::running(1);
    let before = world.status.watermark.clone();
    world.pass(5);
    world.advance();
    world.answer(0).aggregate.remove(&1);
    assert_eq!(world.look().watermark, before);
}

#[test]
fn a_loss_is_told_and_shown_for_a_day() {
    let mut world = World::running(1);
    let told = events_of(&mut world, |world| {
        let observed_at_ms = world.now.as_millisecond();
        let answer = world.answer(0);
        answer.totals.data_loss = 7;
        answer.data_loss.push(DataLoss {
            topic: "logs".to_string(),
            partition: 3,
            message: "records 5 to 12 were deleted before they were read".to_string(),
            records: 7,
            observed_at_ms,
        });
    });
    assert_eq!(told, ["DataLossDetected"]);
    assert_eq!(world.condition("DataLoss"), "True/DataLost");
    assert_eq!(world.status.data_loss.as_ref().unwrap().records, 7);
    // The worker was restarted and has forgotten it.
    world.answers.clear();
    world.pod(0)["status"]["containerStatuses"][0]["restartCount"] = json!(1);
    world.answer(0);
    assert_eq!(events_of(&mut world, |_| {}), Vec::<String>::new());
    assert_eq!(
        world.message("DataLoss"),
        "logs partition 3: records 5 to 12 were deleted before they were read"
    );
    world.pass(24 * 3600 + 1);
    world.look();
    assert_eq!(world.condition("DataLoss"), "False/NoRecentDataLoss");
    assert_eq!(world.status.data_loss.as_ref().unwrap().records, 7);
}

#[test]
fn a_worker_that_stopped_says_why() {
    let mut world = World::running(1);
    world.container(0, json!({"running": {}}));
    let answer = world.answer(0);
    let message = "the commit names another topic".to_string();
    answer.ready = false;
    answer.not_ready_reason = Some(message.clone());
    answer.data_loss.push(DataLoss { message, observed_at_ms: 1, ..DataLoss::default() });
    world.look();
    assert_eq!(world.condition("Degraded"), "True/WorkerStopped");
    assert!(
        world.message("Degraded").contains("the commit names another topic; going on would lose or double")
    );
}

fn results(status: &CrashMonitorStatus) -> i64 {
    status.results.unwrap().emitted
}

#[test]
fn totals_go_on_over_restarts() {
    let mut world = World::running(2);
    world.answer(0).totals.results = 10;
    world.answer(1).totals.results = 5;
    assert_eq!(results(world.look()), 15);
    assert_eq!(results(world.look()), 15);
    // Worker 0 is restarted and begins at zero; worker 1 goes for good.
    world.pod(0)["status"]["containerStatuses"][0]["restartCount"] = json!(1);
    world.answer(0).totals.results = 3;
    world.pods.remove("checkout-worker-1");
    world.answers.remove("checkout-worker-1");
    assert_eq!(results(world.look()), 18);
    // The answer came from a new process, and the pod's status does not know it yet.
    world.answer(0).totals.results = 1;
    assert_eq!(results(world.look()), 19);
    world.answers.clear();
    assert_eq!(results(world.look()), 19);
}

#[test]
fn lag_is_rounded() {
    let mut world = World::running(1);
    for (partition, lag) in [(0, 1_234), (1, 0), (2, 56)] {
        world.answer(0).input.get_mut(&partition).unwrap().lag = lag;
    }
    let lag = world.look().lag.clone().unwrap();
    assert_eq!((lag.total, lag.max_partition), (1_300, 1_300));
}

#[test]
fn nothing_new_is_not_written() {
    let mut world = World::running(1);
    world.pass(3600);
    let (next, _) = world.summary();
    // Time passed, and with it the watermark's lag.
    assert_eq!(write(&world.status, &next, world.now), Write::Now);
    for partition in world.answer(0).aggregate.values_mut() {
        partition.holder = Some(Holder { partition: Some(1), reason: HoldReason::Idle });
    }
    world.look();
    world.pass(5);
    let (next, _) = world.summary();
    assert_eq!(write(&world.status, &next, world.now), Write::Never);
}

#[test]
fn figures_wait_and_changes_do_not() {
    let mut world = World::running(1);
    world.pass(5);
    world.answer(0).totals.results += 1;
    let (next, _) = world.summary();
    assert_eq!(write(&world.status, &next, world.now), Write::Later);
    world.pass(5);
    let (next, _) = world.summary();
    assert_eq!(write(&world.status, &next, world.now), Write::Now);
    world.look();
    world.container(0, json!({"running": {}}));
    let (next, _) = world.summary();
    assert_eq!(write(&world.status, &next, world.now), Write::Now);
}

#[test]
fn figures_that_go_on_wait_longer_than_those_that_jump() {
    let mut world = World::running(1);
    world.answer(0).totals.results = 100;
    world.look();
    let after = |world: &mut World, seconds: i64| {
        world.pass(seconds);
        world.advance();
        write(&world.status, &world.summary().0, world.now)
    };
    world.answer(0).totals.results = 120;
    world.answer(0).input.get_mut(&0).unwrap().lag = 900;
    assert_eq!(after(&mut world, 30), Write::Later);
    assert_eq!(after(&mut world, 30), Write::Now);
    world.look();
    world.answer(0).input.get_mut(&0).unwrap().lag = 20_000;
    assert_eq!(after(&mut world, 5), Write::Later);
    assert_eq!(after(&mut world, 5), Write::Now);
    world.look();
    world.answer(0).totals.results = 300;
    assert_eq!(after(&mut world, 10), Write::Now);
}

#[test]
fn the_time_of_snapshots_alone_waits_longest() {
    let mut world = World::running(1);
    for partition in world.answer(0).aggregate.values_mut() {
        partition.holder = Some(Holder { partition: Some(1), reason: HoldReason::Idle });
    }
    world.look();
    let after = |world: &mut World, seconds: i64, age_seconds: i64| {
        world.pass(seconds);
        let stored_ms = world.now.as_millisecond() - age_seconds * 1000;
        for partition in world.answer(0).aggregate.values_mut() {
            partition.last_checkpoint_ms = Some(stored_ms);
        }
        write(&world.status, &world.summary().0, world.now)
    };
    assert_eq!(after(&mut world, 150, 20), Write::Later);
    assert_eq!(after(&mut world, 0, 150), Write::Now, "they have stopped");
    assert_eq!(after(&mut world, 150, 20), Write::Now);
}

#[test]
fn missing_pods_are_worth_a_question_after_a_while() {
    let now: jiff::Timestamp = world::START.parse().unwrap();
    let since = |seconds: i64| Some(now - jiff::SignedDuration::from_secs(seconds));
    assert!(!are_missing(None, now) && !are_missing(since(5), now));
    assert!(are_missing(since(11), now));
}

#[test]
fn a_condition_keeps_the_time_of_its_change() {
    let mut world = World::running(1);
    let since = |world: &World| {
        let found = crashmonitor_operator::status::find(&world.status, "Ready").unwrap();
        found.last_transition_time.0
    };
    let before = since(&world);
    world.pass(100);
    world.look();
    assert_eq!(since(&world), before);
    world.container(0, json!({"running": {}}));
    world.look();
    assert_eq!(since(&world), world.now);
}

#[test]
fn a_change_that_takes_too_long_is_told() {
    let mut world = World::new(1);
    world.add_pod(0, false);
    world.look();
    world.pass(599);
    world.look();
    assert_eq!(world.condition("Degraded"), "False/AsExpected");
    world.pass(2);
    world.look();
    assert_eq!(world.condition("Degraded"), "True/ProgressDeadlineExceeded");
}
