//! The conditions of a status.
//!
//! Responsible for deciding each of them, with a reason that a machine can match and a message that says what to do.
//! Must never put a number into a message that changes all the time.

use crashmonitor_core::status::{Reachability, Status as Answer};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::pods::{Fleet, Problem};
use super::{Facts, Memory, line};
use crate::api::{CrashMonitorStatus, DesiredState};

/// Event time that stands still for so long, while not all of the input is silent, has stalled.
const STALL: SignedDuration = SignedDuration::from_secs(60);
/// How long a loss of data is shown after it was seen.
const LOSS_SHOWN: SignedDuration = SignedDuration::from_hours(24);
/// A change that takes longer needs a person.
const PROGRESS_DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// The answer of a condition.
enum Is {
    True,
    False,
    Unknown,
}

/// What a condition says.
struct Verdict {
    is: Is,
    reason: String,
    message: String,
}

fn verdict(is: Is, reason: &str, message: impl AsRef<str>) -> Verdict {
    Verdict { is, reason: reason.to_string(), message: line(message.as_ref()) }
}

/// All conditions, in the order in which they are shown.
pub(super) fn conditions(
    facts: &Facts<'_>,
    fleet: &Fleet,
    status: &CrashMonitorStatus,
    memory: Memory,
) -> Vec<Condition> {
    let progressing = progressing(facts, fleet);
    let kafka = kafka(facts);
    let store = store(facts);
    let advancing = advancing(facts, status, memory);
    let loss = loss(facts, status);
    let degraded = degraded(facts, fleet, &progressing, [&kafka, &store, &advancing]);
    let ready = ready(facts, fleet, status, &progressing);
    let all = [
        ("Ready", ready),
        ("Progressing", progressing),
        ("Degraded", degraded),
        ("KafkaReachable", kafka),
        ("CheckpointStoreReachable", store),
        ("WatermarkAdvancing", advancing),
        ("DataLoss", loss),
        ("Suspended", suspended(facts)),
    ];
    all.into_iter().map(|(type_, verdict)| condition(facts, type_, verdict)).collect()
}

/// The condition of a status.
pub fn find<'a>(status: &'a CrashMonitorStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

fn condition(facts: &Facts<'_>, type_: &str, verdict: Verdict) -> Condition {
    let status = match verdict.is {
        Is::True => "True",
        Is::False => "False",
        Is::Unknown => "Unknown",
    };
    let since = find(facts.previous, type_).filter(|previous| previous.status == status);
    Condition {
        type_: type_.to_string(),
        status: status.to_string(),
        reason: verdict.reason,
        message: verdict.message,
        observed_generation: Some(facts.generation),
        last_transition_time: since
            .map_or_else(|| Time(facts.now), |previous| previous.last_transition_time.clone()),
    }
}

fn wanted(facts: &Facts<'_>, fleet: &Fleet) -> i32 {
    facts.monitor.map_or(fleet.existing, |monitor| monitor.wanted_replicas())
}

fn is_settled(facts: &Facts<'_>, fleet: &Fleet) -> bool {
    let wanted = wanted(facts, fleet);
    fleet.is_fresh
        && fleet.leaving == 0
        && (fleet.existing, fleet.ready, fleet.updated) == (wanted, wanted, wanted)
}

fn progressing(facts: &Facts<'_>, fleet: &Fleet) -> Verdict {
    let (Ok(_), None) = (facts.monitor, facts.refused) else {
        return verdict(Is::False, "Stopped", "the spec can't be applied; see the condition Degraded");
    };
    let wanted = wanted(facts, fleet);
    if is_settled(facts, fleet) {
        return verdict(Is::False, "Settled", "what is running is what was asked for");
    }
    let before = find(facts.previous, "Progressing");
    let going_on = before.filter(|condition| condition.status == "True");
    let is_rolling = fleet.updated < fleet.existing;
    match (facts.scaled_from, going_on, before) {
        (Some(from), ..) => verdict(Is::True, "Scaling", format!("from {from} to {wanted} workers")),
        (_, Some(going_on), _) if going_on.reason == "Scaling" => {
            verdict(Is::True, "Scaling", &going_on.message)
        }
        (_, _, None) => verdict(Is::True, "Starting", "the first workers are starting"),
        (_, Some(going_on), _) if going_on.reason == "Starting" => {
            verdict(Is::True, "Starting", &going_on.message)
        }
        _ if fleet.existing == 0 => verdict(Is::True, "Starting", "the workers are starting"),
        _ if is_rolling || !fleet.is_fresh => {
            verdict(Is::True, "RollingUpdate", "workers are replaced one after the other")
        }
        (_, Some(going_on), _) => verdict(Is::True, &going_on.reason, &going_on.message),
        _ => verdict(Is::True, "Recovering", "a worker is starting again"),
    }
}

fn ready(facts: &Facts<'_>, fleet: &Fleet, status: &CrashMonitorStatus, progressing: &Verdict) -> Verdict {
    let monitor = match facts.monitor {
        Ok(monitor) => monitor,
        Err(error) => return verdict(Is::False, "InvalidSpec", invalid(fleet, &error.to_string())),
    };
    if let Some(refused) = facts.refused {
        return verdict(Is::False, "Refused", invalid(fleet, refused));
    }
    if monitor.desired_state == DesiredState::Suspended {
        return verdict(Is::False, "Suspended", "spec.desiredState is Suspended; set it to Running to go on");
    }
    let wanted = monitor.wanted_replicas();
    if wanted == 0 {
        return verdict(Is::False, "ScaledToZero", "spec.replicas is 0; raise it to go on");
    }
    if fleet.ready < wanted {
        let problem = fleet.problem.clone().or_else(|| worker_problem(facts));
        return match problem {
            Some(Problem { reason, message }) => verdict(Is::False, reason, message),
            None => {
                let reason =
                    if progressing.reason == "Settled" { "WorkersNotReady" } else { &progressing.reason };
                verdict(Is::False, reason, format!("{} of {wanted} workers are ready", fleet.ready))
            }
        };
    }
    match status.partitions {
        Some(partitions) if wanted > partitions.input => {
            let (input, more) = (partitions.input, wanted - partitions.input);
            let message = format!(
                "all workers are ready, but the input topic has {input} partitions and spec.replicas is {wanted}: {more} \
                 of them read nothing; lower spec.replicas or add partitions"
            );
            verdict(Is::True, "ReplicasExceedPartitions", message)
        }
        _ => verdict(Is::True, "Running", "all workers are ready"),
    }
}

fn invalid(fleet: &Fleet, reason: &str) -> String {
    match fleet.existing {
        0 => reason.to_string(),
        _ => format!("{reason}; the workers go on with the settings that they have"),
    }
}

/// The first worker that says why it isn't ready, in its words.
fn worker_problem(facts: &Facts<'_>) -> Option<Problem> {
    facts.answers.values().find_map(|answer| {
        let text = answer.not_ready_reason.as_deref()?;
        if answer.ready {
            return None;
        }
        let reason = if answer.data_loss.iter().any(|loss| loss.message == text) {
            "WorkerStopped"
        } else {
            reason_of(text)?
        };
        Some(Problem { reason, message: line(&format!("{}: {text}{}", answer.pod, advice(reason))) })
    })
}

/// A worker names the setting that its trouble is about before a colon.
fn reason_of(text: &str) -> Option<&'static str> {
    const REASONS: [(&str, &str); 7] = [
        ("input.topic:", "InputTopicMissing"),
        ("kafka.authentication:", "KafkaAuthenticationFailed"),
        ("kafka.tls:", "KafkaTlsFailed"),
        ("kafka.bootstrapServers:", "KafkaUnreachable"),
        ("repartition.replicationFactor:", "TooFewBrokers"),
        ("output.replicationFactor:", "TooFewBrokers"),
        ("Kafka:", "KafkaRequestFailed"),
    ];
    REASONS.iter().find(|(prefix, _)| text.starts_with(prefix)).map(|(_, reason)| *reason)
}

fn advice(reason: &str) -> &'static str {
    match reason {
        "KafkaAuthenticationFailed" => "; correct spec.kafka.authentication, or the password in its Secret",
        "KafkaTlsFailed" => "; correct spec.kafka.tls and the certificates in its Secrets",
        "KafkaUnreachable" => {
            "; correct spec.kafka.bootstrapServers, or see that the brokers and the network are up"
        }
        "KafkaNotAuthorized" => "; give the user the rights that docs/operations names",
        "WorkerStopped" => "; going on would lose or double results",
        _ => "",
    }
}

fn degraded(facts: &Facts<'_>, fleet: &Fleet, progressing: &Verdict, connections: [&Verdict; 3]) -> Verdict {
    if let Err(error) = facts.monitor {
        return verdict(Is::True, "InvalidSpec", invalid(fleet, &error.to_string()));
    }
    if let Some(refused) = facts.refused {
        return verdict(Is::True, "Refused", invalid(fleet, refused));
    }
    if let Some(Problem { reason, message }) = fleet.problem.clone().or_else(|| worker_problem(facts)) {
        return verdict(Is::True, reason, message);
    }
    for connection in connections {
        if matches!(connection.is, Is::False) {
            return verdict(Is::True, &connection.reason, &connection.message);
        }
    }
    let since = find(facts.previous, "Progressing").filter(|condition| condition.status == "True");
    let is_late =
        since.is_some_and(|since| facts.now.duration_since(since.last_transition_time.0) > PROGRESS_DEADLINE);
    if matches!(progressing.is, Is::True) && is_late {
        let message =
            format!("{} takes more than {} minutes", progressing.reason, PROGRESS_DEADLINE.as_mins());
        return verdict(Is::True, "ProgressDeadlineExceeded", message);
    }
    verdict(Is::False, "AsExpected", "nothing needs attention")
}

/// The workers that can't reach something, with what they say, and how many were asked.
fn failing<'a>(
    facts: &'a Facts<'_>,
    of: impl Fn(&'a Answer) -> Option<&'a Reachability>,
) -> (Vec<&'a str>, usize) {
    let asked: Vec<_> = facts.answers.values().filter_map(of).collect();
    let errors = asked.iter().filter(|reachability| !reachability.reachable);
    (
        errors.map(|reachability| reachability.error.as_deref().unwrap_or("no answer yet")).collect(),
        asked.len(),
    )
}

fn kafka(facts: &Facts<'_>) -> Verdict {
    let (errors, asked) = failing(facts, |answer| Some(&answer.kafka));
    let Some(error) = errors.first() else {
        return match asked {
            0 => verdict(Is::Unknown, "NoWorkerAnswers", "no worker can be asked"),
            _ => verdict(Is::True, "Reachable", "all workers reach Kafka"),
        };
    };
    if *error == "no answer yet" {
        return verdict(Is::Unknown, "Connecting", "a worker has not heard of Kafka yet");
    }
    let reason = match error.split(':').next().unwrap_or_default() {
        "authentication failed" => "KafkaAuthenticationFailed",
        "TLS handshake failed" => "KafkaTlsFailed",
        "not authorised" => "KafkaNotAuthorized",
        _ => "KafkaUnreachable",
    };
    let message = format!("{} of {asked} workers can't use Kafka: {error}{}", errors.len(), advice(reason));
    verdict(Is::False, reason, message)
}

fn store(facts: &Facts<'_>) -> Verdict {
    if facts.monitor.is_ok_and(|monitor| monitor.checked.checkpoint.is_none()) {
        let message = "spec.checkpoint is not set: recovery replays the internal topic";
        return verdict(Is::Unknown, "NotConfigured", message);
    }
    let (errors, asked) = failing(facts, |answer| answer.checkpoint_store.as_ref());
    match errors.first() {
        None if asked == 0 => verdict(Is::Unknown, "NoWorkerAnswers", "no worker can be asked"),
        None => verdict(Is::True, "Reachable", "all workers reach Redis"),
        Some(&"no answer yet") => verdict(Is::Unknown, "Connecting", "a worker has not used Redis yet"),
        Some(error) => {
            let message = format!(
                "{} of {asked} workers can't use Redis: {error}; nothing is lost, but recovery takes longer: correct \
                 spec.checkpoint.redis, or see that Redis is up",
                errors.len()
            );
            verdict(Is::False, "CheckpointStoreUnreachable", message)
        }
    }
}

fn advancing(facts: &Facts<'_>, status: &CrashMonitorStatus, memory: Memory) -> Verdict {
    if facts.answers.is_empty() {
        return verdict(Is::Unknown, "NoWorkerAnswers", "no worker can be asked");
    }
    let Some((watermark, (_, since))) = status.watermark.as_ref().zip(memory.watermark) else {
        return verdict(
            Is::Unknown,
            "Waiting",
            "there is no watermark before every input partition has spoken",
        );
    };
    if watermark.lag_seconds.is_none() {
        return verdict(Is::True, "Quiet", "the whole input is silent: nothing is waited for");
    }
    let was_stalled =
        find(facts.previous, "WatermarkAdvancing").is_some_and(|before| before.status == "False");
    let is_same = facts.previous.watermark.as_ref().is_some_and(|before| before.time == watermark.time);
    let stood = facts.now.duration_since(since);
    if stood < STALL && !(was_stalled && is_same) {
        return verdict(Is::True, "Advancing", "event time goes on");
    }
    let holder = match &watermark.held_by {
        Some(held) => {
            let partition =
                held.partition.map_or("a partition".to_string(), |number| format!("partition {number}"));
            let why = match held.reason.as_str() {
                "Lagging" => "has records to read and is the furthest behind: its reader is slow or stuck",
                "Unassigned" => "has no worker: see that enough workers are ready",
                "Silent" => "was taken over and has not spoken yet",
                _ => "holds it",
            };
            format!("input {partition} {why}")
        }
        None => "nobody is known to hold it".to_string(),
    };
    let message = format!("event time has stood still for more than {} seconds: {holder}", STALL.as_secs());
    verdict(Is::False, "WatermarkStalled", message)
}

fn loss(facts: &Facts<'_>, status: &CrashMonitorStatus) -> Verdict {
    let Some(loss) = &status.data_loss else {
        return verdict(Is::False, "NoDataLoss", "no record is known to be lost");
    };
    if facts.now.duration_since(loss.last_time.0) > LOSS_SHOWN {
        return verdict(
            Is::False,
            "NoRecentDataLoss",
            format!("the last loss was seen at {}", loss.last_time.0),
        );
    }
    let losses = facts.answers.values().flat_map(|answer| &answer.data_loss);
    let last = losses.max_by_key(|loss| loss.observed_at_ms);
    let said = last.map(|loss| format!("{} partition {}: {}", loss.topic, loss.partition, loss.message));
    let before = find(facts.previous, "DataLoss").filter(|before| before.status == "True");
    let said = said.or_else(|| before.map(|before| before.message.clone()));
    verdict(Is::True, "DataLost", said.unwrap_or_else(|| "see status.dataLoss".to_string()))
}

fn suspended(facts: &Facts<'_>) -> Verdict {
    match facts.monitor {
        Ok(monitor) if monitor.desired_state == DesiredState::Suspended => {
            let message = "no worker runs; what was counted is kept, and replicas stay as they are set";
            verdict(Is::True, "Suspended", message)
        }
        Ok(_) => verdict(Is::False, "NotSuspended", "spec.desiredState is Running"),
        Err(_) => match find(facts.previous, "Suspended").filter(|before| before.status == "True") {
            Some(before) => verdict(Is::True, &before.reason, &before.message),
            None => verdict(Is::False, "NotSuspended", "the workers were not suspended"),
        },
    }
}
