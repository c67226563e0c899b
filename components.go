package main

import (
	"context"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/align"
	"github.com/tailrace/tailrace/operators/detect"
	"github.com/tailrace/tailrace/operators/normalize"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/operators/rekey"
	"github.com/tailrace/tailrace/operators/score"
	"github.com/tailrace/tailrace/operators/window"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
	"github.com/tailrace/tailrace/schemas/formats/rekeyed"
)

// components is everything that a pipeline file can name.
func components() pipeline.Components {
	return pipeline.Components{
		Sources: map[string]pipeline.Component[pipeline.NewSource]{"kafka": kafka.SourceComponent()},
		Formats: map[string]pipeline.Component[pipeline.NewDecoder]{
			"json": pipeline.Define("one JSON object per message: ts, asset, tag, value, q", jsontelemetry.DefaultConfig(),
				func(c jsontelemetry.Config) (pipeline.NewDecoder, error) {
					return func() (formats.Decoder, error) { return jsontelemetry.New(c) }, nil
				}),
			"rekeyed": pipeline.Define("the topic that a pipeline with the step rekey writes", rekeyed.DefaultConfig(),
				func(c rekeyed.Config) (pipeline.NewDecoder, error) {
					return func() (formats.Decoder, error) { return rekeyed.New(c) }, nil
				}),
		},
		Operators: map[string]pipeline.Component[pipeline.NewOperator]{
			"align":     align.Component(),
			"window":    window.Component(),
			"normalize": normalize.Component(),
			"score":     score.Component(),
			"detect":    detect.Component(),
			"rekey":     rekey.Component(),
		},
		Sinks:      map[string]pipeline.Component[pipeline.NewSink]{"clickhouse": clickhouse.Component()},
		Publishers: map[string]pipeline.Component[pipeline.NewPublisher]{"kafka": kafka.PublisherComponent()},
		Scorers: map[string]pipeline.ScorerFactory{
			"onnxruntime": ort.Factory(func(ctx context.Context) (string, error) {
				return native.Resolve(ctx, native.ONNXRuntime, native.Options{})
			}),
			"reference": reference.New,
		},
	}
}
