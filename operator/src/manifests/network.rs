//! How the pods are found, and who may talk to them.
//!
//! Responsible for the headless Service and the NetworkPolicy. Must never stand between a worker and Kafka or Redis.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    ADMIN_PORT, METRICS_ACCESS, OPERATOR, label_selector, labels_of, metadata, selector, service_name,
    worker_name,
};
use crate::validate::Monitor;

/// The name of the port in pod and Service.
pub(super) const PORT_NAME: &str = "admin";

pub(super) fn service(monitor: &Monitor) -> Service {
    Service {
        metadata: metadata(monitor, service_name(&monitor.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_string()),
            selector: Some(selector(&monitor.name)),
            // A worker that isn't ready has the most to say.
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_string()),
                port: i32::from(ADMIN_PORT),
                target_port: Some(IntOrString::String(PORT_NAME.to_string())),
                protocol: Some("TCP".to_string()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// In: only to the admin port; from the operator, from the monitor's own namespace, from pods that say that they are
/// Prometheus, and from namespaces that are labelled for it. Out: everything. Brokers tell their clients which
/// addresses and ports to use, so no policy that is written beforehand can name them.
pub(super) fn policy(monitor: &Monitor) -> NetworkPolicy {
    let labelled = |labels| LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
    let namespace = labels_of([("kubernetes.io/metadata.name", monitor.operator_namespace.as_str())]);
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled(namespace)),
        pod_selector: Some(labelled(labels_of([(super::NAME, OPERATOR)]))),
        ..NetworkPolicyPeer::default()
    };
    let neighbours =
        NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let prometheus = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(labelled(labels_of([(super::NAME, "prometheus")]))),
        ..NetworkPolicyPeer::default()
    };
    let scrapers = NetworkPolicyPeer {
        namespace_selector: Some(labelled(labels_of([(METRICS_ACCESS, "allowed")]))),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: metadata(monitor, worker_name(&monitor.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(label_selector(&monitor.name)),
            policy_types: Some(vec!["Ingress".to_string()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![operator, neighbours, prometheus, scrapers]),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(ADMIN_PORT))),
                    protocol: Some("TCP".to_string()),
                    end_port: None,
                }]),
            }]),
            egress: None,
        }),
    }
}
