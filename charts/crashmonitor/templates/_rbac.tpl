{{/*
All that the operator may do where CrashMonitors are. It reads no Secret: the kubelet mounts them into the workers' pods.
*/}}
{{- define "crashmonitor.rules" -}}
# The resources, their finalizer, and what is said of them.
- apiGroups: [crashmonitor.dev]
  resources: [crashmonitors]
  verbs: [get, list, watch, patch]
- apiGroups: [crashmonitor.dev]
  resources: [crashmonitors/status]
  verbs: [patch]
# To be the owner that blocks its children's deletion, where the API server asks for that.
- apiGroups: [crashmonitor.dev]
  resources: [crashmonitors/finalizers]
  verbs: [update]
# What a monitor consists of. What a resource owns is deleted with it, by Kubernetes.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
# Where the workers are, to ask for their status; and to replace those of an old revision that never became ready.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
# Why a pod waits for its volumes or is not created; and what the operator has to say itself.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Cleans up after a resource with deletionPolicy Delete.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create, delete]
{{- end }}
