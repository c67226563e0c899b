// Package eventtime is the event-time clock of one partition: it says, row by row, which rows of telemetry.v1 are
// late, suspect, historical or there twice, down which lane each goes, and where the lanes' watermarks stand. It is
// plain logic: it starts no goroutine and reads no clock, so the same rows give the same answer however they were
// fetched.
//
// Devices. A row belongs to the device that its column src names, else to its asset. A device's clock is the newest
// event time of its rows that was not suspect. Clocks are kept for max_devices devices; rows of further ones follow
// the watermark.
//
// Watermark. A lane's watermark is the slowest clock among its active devices less out_of_order, cut down to a
// multiple of step, less one nanosecond: rows with the newest row's own time may still come. It never goes back. A
// row moves it after it has been judged. A row at or before its lane's watermark is late.
//
// Arrival. A row has arrived at its ts_ingest, or when an earlier row has if that is later, since a partition is in
// the order of arrival; but not later than the present, if the clock is told it. The task's clock is the newest
// arrival of any row of the partition, or the time of a barrier at the partition's end.
//
// Idle. A device whose own clock has not moved for idle_timeout on the task's clock is idle: the others no longer
// wait for it, be it silent, its clock stopped or set back, or suspect. So none can hold the watermark for longer. It
// is active again with the next row that moves its clock, unless that is behind the live watermark by more than
// max_skew: then it is a device with a wrong clock, and waiting for it would delay all others by as much.
//
// All idle. When no live device is active, the live watermark goes on at barriers at the partition's end: event time
// runs on from the newest row as the task's clock does, and the watermark follows idle_timeout behind, but never past
// the task's clock less idle_timeout. Where event time is near arrival this is barrier time minus idle_timeout; where
// it is not, in a replay of old rows, it first closes up to the newest row and then goes on at the pace of the clock.
//
// Suspect. A time before min_time or ahead of arrival by more than max_skew, or one that the decoder flagged, moves
// no clock.
//
// History. A row is history if its source flagged it historical; if it is more than late_after behind its own
// device's clock, or behind the watermark, which an idle or an unknown device follows; or if it is late and goes on
// where a burst of its device stands. History has device clocks and a watermark of its own under the same rules, but
// for two. Its watermark first moves idle_timeout after a burst has begun, or with the 100,000th row, so that devices
// that begin later are in time. And when all its devices are idle it goes one step past its newest row, so that its
// windows close.
//
// Duplicates. A row equal to an earlier one of its lane in asset, tag and time is dropped, if its time is later than
// the watermark less out_of_order and allowed_lateness. Suspect rows are not looked at.
package eventtime
