package schemas

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// LateRow is the record of pipeline.late.v1: a row that came too late for any result. The row itself is in the table
// telemetry, flagged late; this message tells whoever can act on it. A row may come more than once: consumers tell it
// by its lineage.
type LateRow struct {
	Asset string    `json:"asset"`
	Tag   string    `json:"tag"`
	TS    time.Time `json:"ts"` // event time
	// Value is the exact integer if the source sent one, else the number, else the text, else null.
	Value    any     `json:"value"`
	Quality  Quality `json:"quality"` // 0 bad, 1 uncertain, 2 good
	Flags    Flag    `json:"flags"`
	KTopic   string  `json:"k_topic"`
	KPart    int32   `json:"k_part"`
	KOffset  int64   `json:"k_offset"`
	KIdx     int32   `json:"k_idx"`
	Pipeline string  `json:"pipeline"`
}

// LateRows reads a record of telemetry.v1 row by row. It borrows the record and gives each row with its JSON to each,
// which may stop it with an error. A record of another schema is an error.
func LateRows(rec arrow.Record, pipeline string, each func(row *LateRow, text []byte) error) error {
	if !rec.Schema().Equal(telemetry) {
		return fmt.Errorf("late rows: want the schema telemetry.v1, got %s", rec.Schema())
	}
	asset, tag, topic := dictionary(rec, ColAsset), dictionary(rec, ColTag), dictionary(rec, ColKTopic)
	ts := rec.Column(ColTS).(*array.Timestamp)
	number, integer := rec.Column(ColValue).(*array.Float64), rec.Column(ColValueInt).(*array.Int64)
	text := rec.Column(ColValueStr).(*array.String)
	quality, flags := rec.Column(ColQuality).(*array.Uint8), rec.Column(ColFlags).(*array.Uint32)
	part, index := rec.Column(ColKPart).(*array.Int32), rec.Column(ColKIdx).(*array.Int32)
	offset := rec.Column(ColKOffset).(*array.Int64)
	for i := range int(rec.NumRows()) {
		row := LateRow{
			Asset: asset(i), Tag: tag(i), TS: time.Unix(0, int64(ts.Value(i))).UTC(),
			Quality: Quality(quality.Value(i)), Flags: Flag(flags.Value(i)),
			KTopic: topic(i), KPart: part.Value(i), KOffset: offset.Value(i), KIdx: index.Value(i), Pipeline: pipeline,
		}
		switch {
		case integer.IsValid(i):
			row.Value = integer.Value(i)
		case number.IsValid(i) && !math.IsNaN(number.Value(i)) && !math.IsInf(number.Value(i), 0): // JSON has no others
			row.Value = number.Value(i)
		case text.IsValid(i):
			row.Value = text.Value(i)
		}
		encoded, err := json.Marshal(&row)
		if err != nil {
			return fmt.Errorf("late rows: row %d: %w", i, err)
		}
		if err := each(&row, encoded); err != nil {
			return err
		}
	}
	return nil
}

// dictionary reads the texts of a column of type Dict.
func dictionary(rec arrow.Record, column int) func(row int) string {
	codes := rec.Column(column).(*array.Dictionary)
	texts := codes.Dictionary().(*array.String)
	return func(row int) string { return texts.Value(codes.GetValueIndex(row)) }
}
