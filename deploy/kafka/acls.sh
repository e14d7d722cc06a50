#!/bin/sh
# Sets the minimum of rights at the broker: acls.sh ROLE PRINCIPAL TOOL...
#
#   acls.sh worker  User:unlensed kafka-acls.sh --bootstrap-server HOST:PORT --command-config admin.properties
#   acls.sh shadow  User:unlensed ...    workers with `--mode shadow`
#   acls.sh letters User:operator ...    `unlensed dlq list` and `unlensed dlq replay`
#   acls.sh scaler  User:keda ...        KEDA, which reads the lag
#
# With Strimzi the chart sets a worker's rights. Brokers need authorizer.class.name; with mutual TLS the principal is
# the certificate's subject (User:CN=unlensed), with a token its `sub` (User:system:serviceaccount:NAMESPACE:NAME).
set -eu
role=$1 principal=$2
shift 2
# As in the settings stream.requests, .results, .dead_letters and .group.
requests=${REQUESTS:-unlensed.requests} results=${RESULTS:-unlensed.results}
letters=${DEAD_LETTERS:-unlensed.dead-letters} group=${GROUP:-unlensed}

case $role in
worker | shadow)
  if [ "$role" = shadow ]; then results=$results.shadow letters=$letters.shadow group=$group.shadow; fi
  "$@" --add --allow-principal "$principal" --operation Read --operation Describe --topic "$requests"
  "$@" --add --allow-principal "$principal" --operation Write --operation Describe --topic "$results"
  "$@" --add --allow-principal "$principal" --operation Write --operation Describe --topic "$letters"
  # With it a worker knows at its start which answers are too large for their topics.
  for topic in "$requests" "$results" "$letters"; do
    "$@" --add --allow-principal "$principal" --operation DescribeConfigs --topic "$topic"
  done
  "$@" --add --allow-principal "$principal" --operation Read --operation Describe --group "$group"
  "$@" --add --allow-principal "$principal" --operation Read --operation Describe --group "$group.notes"
  # For `stream.delivery = "exactly_once"` only; its transactional ids begin with the group.
  "$@" --add --allow-principal "$principal" --operation Write --operation Describe --transactional-id "$group" \
    --resource-pattern-type prefixed
  ;;
letters)
  "$@" --add --allow-principal "$principal" --operation Read --operation Describe --topic "$letters"
  "$@" --add --allow-principal "$principal" --operation Write --operation Describe --topic "$requests"
  "$@" --add --allow-principal "$principal" --operation Read --operation Describe --group "$group.replayed"
  ;;
scaler)
  "$@" --add --allow-principal "$principal" --operation Describe --topic "$requests"
  "$@" --add --allow-principal "$principal" --operation Describe --group "$group"
  ;;
*)
  echo "acls.sh: unknown role $role, expected one of worker, shadow, letters, scaler" >&2
  exit 2
  ;;
esac
