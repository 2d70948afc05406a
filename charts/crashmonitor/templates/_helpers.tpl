{{/* The chart's name, or what takes its place. */}}
{{- define "crashmonitor.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The beginning of all names. 40 characters, so that the longest suffix and a pod's own fit into a label's 63. */}}
{{- define "crashmonitor.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "crashmonitor.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of the operator's own objects. */}}
{{- define "crashmonitor.operatorName" -}}
{{- printf "%s-operator" (include "crashmonitor.fullname" .) }}
{{- end }}

{{- define "crashmonitor.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "crashmonitor.operatorName" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What never changes: selectors can't. The workers' NetworkPolicies know the operator by the first of them. */}}
{{- define "crashmonitor.selectorLabels" -}}
app.kubernetes.io/name: crashmonitor-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "crashmonitor.labels" -}}
{{ include "crashmonitor.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: crashmonitor
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image's full name. Takes {image, defaultTag}. */}}
{{- define "crashmonitor.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .defaultTag .image.tag) }}
{{- end }}
{{- end }}

{{- define "crashmonitor.operatorImage" -}}
{{- include "crashmonitor.image" (dict "image" .Values.image "defaultTag" .Chart.AppVersion) }}
{{- end }}

{{- define "crashmonitor.workerImage" -}}
{{- include "crashmonitor.image" (dict "image" .Values.worker.image "defaultTag" .Chart.AppVersion) }}
{{- end }}
