//go:build kafka

package kafka

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/connectors/credentials/credentialstest"
	"github.com/tailrace/tailrace/connectors/kafka/kafkatest"
)

// joined writes files one after the other into one, as Kafka wants its PEM key stores.
func joined(t *testing.T, files ...string) string {
	t.Helper()
	var all []byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		ok(t, err)
		all = append(all, text...)
	}
	path := filepath.Join(t.TempDir(), "store.pem")
	ok(t, os.WriteFile(path, all, 0o600))
	return path
}

// Scenario: Apache Kafka with SASL_SSL, SCRAM and PLAIN users and ACLs; one that wants client certificates; a plaintext one.
// Guarantees: telemetry passes with every mechanism, and a client certificate opens; every kind of closed door ends the start
// within 10 s with an error that names the cause; the password is nowhere.
func TestDoorsOfApacheKafka(t *testing.T) {
	ours, theirs := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	hour := time.Now().Add(time.Hour)
	server, client, foreign := ours.Issue(t, "broker", hour), ours.Issue(t, "client", hour), theirs.Issue(t, "client", hour)
	keys := joined(t, server.KeyFile, server.CertFile)
	jaas := func(module, rest string) string {
		return "org.apache.kafka.common.security." + module + " required " + rest + ";"
	}
	scram := jaas("scram.ScramLoginModule", fmt.Sprintf(`username="admin" password=%q`, canary))
	b := kafkatest.New(t, kafkatest.Config{
		Protocol: "SASL_SSL",
		Properties: map[string]string{
			"ssl.keystore.type": "PEM", "ssl.keystore.location": keys,
			"ssl.truststore.type": "PEM", "ssl.truststore.location": ours.File,
			"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512", "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
			"listener.name.client.plain.sasl.jaas.config":         jaas("plain.PlainLoginModule", fmt.Sprintf(`user_admin=%q`, canary)),
			"listener.name.client.scram-sha-256.sasl.jaas.config": scram,
			"listener.name.client.scram-sha-512.sasl.jaas.config": scram,
			"authorizer.class.name":                               "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                                         "User:admin;User:ANONYMOUS", // the controller's listener is plaintext
		},
		Format: []string{
			"--add-scram", "SCRAM-SHA-256=[name=admin,password=" + canary + "]", "--add-scram", "SCRAM-SHA-512=[name=admin,password=" + canary + "]",
			"--add-scram", "SCRAM-SHA-512=[name=plant,password=" + canary + "]",
		},
	})
	brokers := []string{b.Addr()}
	believe := &credentials.TLS{CAFile: ours.File}
	login := func(mechanism, user, password string) *SASL {
		return &SASL{Mechanism: mechanism, User: user, PasswordFile: secret(t, password)}
	}
	admin := login(SASLScramSHA256, "admin", canary)
	for _, topic := range []string{"plant.telemetry", "anomaly.events.v1", "pipeline.late.v1", "pipeline.dlq.v1"} {
		ok(t, Access{brokers, believe, admin}.CreateTopic(tenSeconds(t), topic, 1, nil))
	}
	demanding := []string{kafkatest.New(t, kafkatest.Config{Protocol: "SSL", Properties: map[string]string{
		"ssl.keystore.type": "PEM", "ssl.keystore.location": keys,
		"ssl.truststore.type": "PEM", "ssl.truststore.location": ours.File, "ssl.client.auth": "required",
	}}).Addr()}
	own := &credentials.TLS{CAFile: ours.File, CertFile: client.CertFile, KeyFile: client.KeyFile}
	ok(t, Access{demanding, own, nil}.CreateTopic(tenSeconds(t), "plant.telemetry", 1, nil))
	for i, mechanism := range []string{SASLPlain, SASLScramSHA256, SASLScramSHA512} {
		produce := DefaultProducerConfig()
		produce.Brokers, produce.Topics, produce.TLS = brokers, []string{"plant.telemetry"}, believe
		produce.SASL = login(mechanism, "admin", canary)
		p := NewProducer(produce)
		ok(t, p.Open(tenSeconds(t)))
		ok(t, p.Send(t.Context(), "plant.telemetry", []byte("press"), fmt.Append(nil, i), 1))
		ok(t, p.Flush(tenSeconds(t)))
		ok(t, p.Close())
	}

	for name, c := range map[string]struct {
		brokers []string
		tls     *credentials.TLS
		sasl    *SASL
		want    string
	}{
		"wrong authority":       {brokers, &credentials.TLS{CAFile: theirs.File}, admin, "is signed by none of the authorities in ca_file"},
		"wrong name":            {brokers, &credentials.TLS{CAFile: ours.File, ServerName: "elsewhere"}, admin, `is not for the name "elsewhere"`},
		"plaintext to TLS":      {brokers, nil, admin, "speaks TLS: set tls"},
		"TLS to plaintext":      {[]string{kafkatest.New(t, kafkatest.Config{}).Addr()}, believe, admin, "speaks plaintext, not TLS"},
		"no client certificate": {demanding, believe, nil, "wants a client certificate"},
		"foreign client": {demanding, &credentials.TLS{CAFile: ours.File, CertFile: foreign.CertFile, KeyFile: foreign.KeyFile}, nil,
			"does not take the client certificate in cert_file"},
		"wrong password":       {brokers, believe, login(SASLScramSHA256, "admin", canary+"-wrong"), `does not let user "admin" in with SCRAM-SHA-256`},
		"wrong plain password": {brokers, believe, login(SASLPlain, "admin", canary+"-wrong"), `does not let user "admin" in with PLAIN`},
		"unknown user":         {brokers, believe, login(SASLScramSHA512, "nobody", canary), `does not let user "nobody" in with SCRAM-SHA-512`},
		"no such mechanism":    {brokers, believe, login(SASLScramSHA256, "plant", canary), `does not let user "plant" in with SCRAM-SHA-256`},
	} {
		t.Run(name, func(t *testing.T) { turnedAway(t, c.brokers, c.tls, c.sasl, c.want) })
	}

	// The ACLs of deploy/SECURITY.md, one after the other.
	manager := &cluster{brokers: brokers, timeout: 10 * time.Second, tls: believe, sasl: admin}
	m := manager.client("plant.telemetry")
	defer closeClient(m)
	grant := func(kind kafka.ResourceType, name string, operation kafka.ACLOperationType) {
		t.Helper()
		res, err := m.CreateACLs(tenSeconds(t), &kafka.CreateACLsRequest{ACLs: []kafka.ACLEntry{{
			ResourceType: kind, ResourceName: name, ResourcePatternType: kafka.PatternTypeLiteral,
			Principal: "User:plant", Host: "*", Operation: operation, PermissionType: kafka.ACLPermissionTypeAllow,
		}}})
		ok(t, err)
		for _, err := range res.Errors {
			ok(t, err)
		}
	}
	plant := Access{brokers, believe, login(SASLScramSHA512, "plant", canary)}
	lacks(t, plant, false, "", `user "plant" has no ACL for Describe on topic "plant.telemetry"`)
	grant(kafka.ResourceTypeTopic, "plant.telemetry", kafka.ACLOperationTypeDescribe)
	lacks(t, plant, false, "", `user "plant" has no ACL for Read on topic "plant.telemetry"`)
	grant(kafka.ResourceTypeTopic, "plant.telemetry", kafka.ACLOperationTypeRead)
	lacks(t, plant, false, "", `user "plant" has no ACL for Read on group "tailrace.p"`)
	grant(kafka.ResourceTypeGroup, "tailrace.p", kafka.ACLOperationTypeRead)
	config := DefaultSourceConfig()
	config.Brokers, config.Topic, config.Group, config.TLS, config.SASL = brokers, "plant.telemetry", "tailrace.p", believe, plant.SASL
	s := openSource(t, config)
	if r := readMessages(t, only(t, join(t, s)), 3); len(r.values) != 3 {
		t.Errorf("want 3 values, got %v", r.values)
	}
	grant(kafka.ResourceTypeTopic, "anomaly.events.v1", kafka.ACLOperationTypeWrite)
	grant(kafka.ResourceTypeTopic, "pipeline.late.v1", kafka.ACLOperationTypeWrite)
	grant(kafka.ResourceTypeTopic, "pipeline.dlq.v1", kafka.ACLOperationTypeDescribe)
	lacks(t, plant, true, "", `user "plant" has no ACL for Write on topic "pipeline.dlq.v1"`)
	grant(kafka.ResourceTypeTopic, "new.anomaly.events.v1", kafka.ACLOperationTypeDescribe)
	lacks(t, plant, true, "new.", `user "plant" has no ACL for Create on topic "new.anomaly.events.v1"`)
}
