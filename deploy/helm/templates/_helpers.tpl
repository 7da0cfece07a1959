{{/* Templates that several workloads share. */}}

{{- define "agent.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The labels that select the pods of a component: (list $ "forwarder"). */}}
{{- define "agent.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}

{{/* The Secrets' names; empty where there is none. */}}
{{- define "agent.tokenSecret" -}}
{{ .Values.existingSecret | default (ternary (include "agent.name" .) "" (not (empty .Values.infraToken))) }}
{{- end }}

{{- define "agent.natsSecret" -}}
{{ .Values.nats.existingSecret | default (ternary (printf "%s-nats" (include "agent.name" .)) "" (empty .Values.nats.url)) }}
{{- end }}

{{- define "agent.natsUrl" -}}
{{ .Values.nats.url | default (printf "nats://%s-nats:4222" (include "agent.name" .)) }}
{{- end }}

{{/* No root, no capability, nothing to write to. */}}
{{- define "agent.unprivileged" -}}
runAsNonRoot: true
runAsUser: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/*
The container of one service: dict "root" $ "key" "forwarder", and optionally
"env" (a map), "mounts" and "security" (YAML), "node" (true: its events are about the node it runs on).
*/}}
{{- define "agent.container" -}}
{{- $values := index .root.Values .key }}
{{- $image := .root.Values.image }}
{{- $name := kebabcase .key }}
{{- $secret := include "agent.natsSecret" .root }}
{{- $env := dict "API_SERVER_PORT" $values.port "NATS_URL" (include "agent.natsUrl" .root) }}
{{- if $secret }}
{{- $_ := set $env "NATS_USER" .root.Values.nats.user }}
{{- $_ := set $env "NATS_PASSWORD_FILE" "/run/secrets/nats/password" }}
{{- if .root.Values.nats.ca }}{{ $_ := set $env "NATS_CA" "/run/secrets/nats/ca.crt" }}{{ end }}
{{- end }}
{{- /* Not `merge`, which takes false and 0 for nothing. */}}
{{- range list .env .root.Values.settings $values.settings }}
{{- range $variable, $value := . }}{{ $_ := set $env $variable $value }}{{ end }}
{{- end -}}
name: {{ $name }}
image: {{ printf "%s/%s:%s" $image.repository $name ($image.tag | default .root.Chart.AppVersion) }}
imagePullPolicy: {{ $image.pullPolicy }}
env:
  {{- if .node }}
  - { name: NODE_NAME, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
  {{- end }}
  {{- range $variable, $value := $env }}
  - { name: {{ $variable }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }} }
  {{- end }}
ports:
  - { name: {{ trimSuffix "-collector" $name }}, containerPort: {{ $values.port }} }
livenessProbe:
  httpGet: { path: /healthz, port: {{ $values.port }} }
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: { path: /readyz, port: {{ $values.port }} }
  periodSeconds: 10
  timeoutSeconds: 5
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- .security | default (include "agent.unprivileged" .) | nindent 2 }}
{{- if or .mounts $secret }}
volumeMounts:
  {{- with .mounts }}{{ . | nindent 2 }}{{ end }}
  {{- if $secret }}
  - { name: nats-secret, mountPath: /run/secrets/nats, readOnly: true }
  {{- end }}
{{- end }}
{{- end }}

{{/* Where pods go, and what all of them share: (list $ .Values.node). */}}
{{- define "agent.placement" -}}
enableServiceLinks: false
terminationGracePeriodSeconds: 20
{{- with (index . 0).Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "tolerations" "nodeSelector" "affinity" "priorityClassName" }}
{{- with index (index $ 1) $field }}
{{ $field }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "agent.natsVolume" -}}
{{- with include "agent.natsSecret" . -}}
- { name: nats-secret, secret: { secretName: {{ . }} } }
{{- end }}
{{- end }}
